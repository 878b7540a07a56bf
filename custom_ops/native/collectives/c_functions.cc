// The collectives as plain C functions (c_api.h).
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>

#include "../arguments.h"
#include "../c_api.h"
#include "../kernels/op.h"
#include "communicator.h"

namespace onnx_cbp {
namespace {

constexpr const char* kNoStatisticsType = "unknown type: statistics are float (1) or double (11)";

// Runs run(collective). Refuses impossible types, sizes, texts and tensors. No exception leaves it.
template <typename F>
const char* Guard(const char* name, std::initializer_list<Tensor> tensors, const char* group, const char* layer,
                  int stats_type, int64_t replicas, int64_t channels, F&& run) {
  thread_local std::string text;
  // A message needs room for two numbers per channel, a count, and a header.
  int64_t elements = 0;
  if (!IsStatisticsType(stats_type)) return kNoStatisticsType;
  if (layer == nullptr || group == nullptr) return "the layer or the group is null: give texts";
  if (const char* reason = Product({replicas, channels, 4}, &elements)) return reason;
  if (const char* reason = MissingTensor(tensors, SizeOfVectors{replicas, channels})) return reason;
  try {
    const Collective collective(name, layer, group, Collective::kNoNode);
    return run(collective) ? nullptr : kNoStatisticsType;
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::length_error&) {
    return "out of memory";
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  } catch (...) {
    return "unexpected error";
  }
}

// These two are named after the sizes that they get.
template <typename Arguments, typename F>
const char* RunGather(const char* name, std::initializer_list<Tensor> tensors, const Arguments& a, F&& kernel,
                      int stats_type, int64_t channels, int64_t replicas) {
  return Guard(name, tensors, a.group, a.layer, stats_type, replicas, channels, [&](const Collective& collective) {
    if (const int64_t there = collective.Replicas(); there != replicas) {
      throw CollectiveError("there is room for " + std::to_string(replicas) + " replicas, and the group has " +
                            std::to_string(there));
    }
    return kernel(GatherCall{stats_type, channels, replicas, collective}, a);
  });
}

template <typename Arguments, typename F>
const char* RunReduce(const char* name, std::initializer_list<Tensor> tensors, const Arguments& a, F&& kernel,
                      int stats_type, int64_t channels) {
  if (a.reduction == nullptr) return "the reduction is null: use 'sum' or 'mean'";
  return Guard(name, tensors, a.group, a.layer, stats_type, 1, channels,
               [&](const Collective& collective) { return kernel(ReduceCall{stats_type, channels, collective}, a); });
}

}  // namespace
}  // namespace onnx_cbp

#define ONNX_CBP_DEFINE(Name, name, sizes)                                                                 \
  const char* onnx_cbp_##name(ONNX_CBP_PARAMETERS(name, sizes)) {                                          \
    return onnx_cbp::Run##sizes(#Name, ONNX_CBP_TENSORS(name), ONNX_CBP_TAKEN(Name, name), onnx_cbp::Name, \
                                ONNX_CBP_VALUES_##sizes);                                                  \
  }
ONNX_CBP_COLLECTIVES(ONNX_CBP_DEFINE)
