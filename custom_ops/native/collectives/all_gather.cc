// AllGather: every replica gets the statistics of all replicas.
#include <algorithm>
#include <string>

#include "../kernels/element_types.h"
#include "../kernels/op.h"
#include "communicator.h"
#include "messages.h"

namespace onnx_cbp {
namespace {

constexpr int64_t kLargestExactCount = int64_t{1} << 53;

}  // namespace

// Gathers the statistics of every replica of a group, by rank: mean and var [channels] become means and vars [replicas,
// channels], and counts [replicas]. There is one message, with mean, var and count as doubles.
bool AllGather(const GatherCall& call, const AllGatherArguments& a) {
  const int64_t channels = call.channels, count = *a.count.As<int64_t>();
  int64_t* counts = a.counts.As<int64_t>();
  if (count > kLargestExactCount) {
    throw CollectiveError("input 'count' is " + std::to_string(count) + "; a message holds counts up to 2^53");
  }
  return DispatchStatistics(call.stats_type, [&](auto u) {
    using U = decltype(u);
    const U* own_mean = a.mean.As<U>();
    const U* own_var = a.var.As<U>();
    U* all_means = a.means.As<U>();
    U* all_vars = a.vars.As<U>();
    if (Collective::Alone()) {  // not every group of one: other groups' replicas compare collectives
      std::copy_n(own_mean, channels, all_means);
      std::copy_n(own_var, channels, all_vars);
      *counts = count;
      return;
    }
    thread_local MessageBuffer sent, received;
    const int64_t elements = 2 * channels + 1;
    double* send = sent.Reserve<double>(static_cast<size_t>(elements));
    double* receive = received.Reserve<double>(static_cast<size_t>(elements), static_cast<size_t>(call.replicas));
    double* payload = send + ONNX_CBP_MESSAGE_HEADER;
    std::copy_n(own_mean, channels, payload);
    std::copy_n(own_var, channels, payload + channels);
    payload[2 * channels] = static_cast<double>(count);
    Communicate([&] { call.collective.AllGather(elements, send, receive); }, sent, received);
    const auto to_u = [](double value) { return static_cast<U>(value); };
    for (int64_t r = 0; r < call.replicas; ++r) {
      const double* message = receive + r * (ONNX_CBP_MESSAGE_HEADER + elements) + ONNX_CBP_MESSAGE_HEADER;
      std::transform(message, message + channels, all_means + r * channels, to_u);
      std::transform(message + channels, message + 2 * channels, all_vars + r * channels, to_u);
      counts[r] = static_cast<int64_t>(message[2 * channels]);
    }
    sent.Trim();
    received.Trim();
  });
}

}  // namespace onnx_cbp
