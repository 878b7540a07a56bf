// Calls the functions of the registered communicator.
#include "communicator.h"

#include <array>
#include <atomic>
#include <utility>

#include "../kernels/element_types.h"

namespace onnx_cbp {
namespace {

std::atomic<const onnx_cbp_communicator*> registered{nullptr};
std::atomic<int64_t> nodes{0};

// The communicator, or null; an error if this thread must not use it.
const onnx_cbp_communicator* Current() {
  const onnx_cbp_communicator* communicator = registered.load(std::memory_order_acquire);
  if (communicator != nullptr && communicator->thread != nullptr && communicator->thread() == nullptr) {
    // Ask this before calling any other function of the communicator: the thread that waits for this one may hold its
    // lock.
    throw CollectiveError(
        "the node runs on a thread of ONNX Runtime's pool, where collectives have no order: use execution_mode "
        "ORT_SEQUENTIAL");
  }
  return communicator;
}

// Calls a function of the communicator. A negative answer is an error, with a text.
template <typename F>
int64_t Checked(F&& call) {
  std::array<char, ONNX_CBP_ERROR_CAPACITY> error{};
  const int64_t answer = call(error.data());
  if (answer < 0) {
    error.back() = '\0';
    throw CollectiveError(error[0] != '\0' ? error.data() : "the communicator failed");
  }
  return answer;
}

}  // namespace

int64_t Collective::NewNode() { return nodes++; }

Collective::Collective(const char* name, std::string layer, std::string group, int64_t node)
    : node_(node), name_(name), layer_(std::move(layer)), group_(std::move(group)) {}

onnx_cbp_collective Collective::Describe(int type, int64_t elements) const {
  const int64_t id = node_ == kNoNode ? -1 : (node_ << 40) | elements;
  return {id, name_.c_str(), layer_.c_str(), group_.c_str(), type, elements};
}

bool Collective::Alone() { return registered.load(std::memory_order_acquire) == nullptr; }

int64_t Collective::Replicas() const {
  const onnx_cbp_communicator* communicator = Current();
  if (communicator == nullptr) return 1;
  return Checked([&](char* error) {
    return communicator->replicas(communicator->user, group_.c_str(), error, ONNX_CBP_ERROR_CAPACITY);
  });
}

void Collective::AllGather(int64_t elements, void* send, void* receive) const {
  const onnx_cbp_communicator* communicator = Current();
  if (communicator == nullptr) throw CollectiveError("the communicator was taken away in the middle of a run");
  const onnx_cbp_collective collective = Describe(kDouble, elements);
  Checked([&](char* error) {
    return communicator->all_gather(communicator->user, collective.id, &collective, send, receive, error,
                                    ONNX_CBP_ERROR_CAPACITY);
  });
}

int64_t Collective::AllReduce(int type, int64_t elements, void* message) const {
  const onnx_cbp_communicator* communicator = Current();
  if (communicator == nullptr) throw CollectiveError("the communicator was taken away in the middle of a run");
  const onnx_cbp_collective collective = Describe(type, elements);
  return Checked([&](char* error) {
    return communicator->all_reduce(communicator->user, collective.id, &collective, message, error,
                                    ONNX_CBP_ERROR_CAPACITY);
  });
}

}  // namespace onnx_cbp

void onnx_cbp_set_communicator(const onnx_cbp_communicator* communicator) {
  onnx_cbp::registered.store(communicator, std::memory_order_release);
}
