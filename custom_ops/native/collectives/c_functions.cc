// The collectives as plain C functions (c_api.h).
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>

#include "../arguments.h"
#include "../c_api.h"
#include "all_gather.h"
#include "all_reduce.h"

namespace {

using onnx_cbp::Collective;
using onnx_cbp::CollectiveError;
using onnx_cbp::Tensors;

constexpr const char* kUnknownType = "unknown type: statistics are float (1) or double (11)";

// Runs a collective; nothing leaves as an exception. Sizes and texts are checked before, tensors are what `tensors`
// has.
template <typename F>
const char* Guard(const char* name, const char* layer, const char* group, int stats_type,
                  std::initializer_list<int64_t> sizes, std::initializer_list<Tensors> tensors, F&& run) {
  thread_local std::string text;
  int64_t elements = 0;
  if (!onnx_cbp::IsStatisticsType(stats_type)) return kUnknownType;
  if (layer == nullptr || group == nullptr) return "the layer or the group is null: give texts";
  if (const char* reason = onnx_cbp::Product(sizes, &elements)) return reason;
  if (const char* reason = onnx_cbp::MissingTensor(tensors)) return reason;
  try {
    const Collective collective(name, layer, group, Collective::kNoNode);
    return run(collective) ? nullptr : kUnknownType;
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

constexpr const char* kNoReduction = "the reduction is null: use 'sum' or 'mean'";

}  // namespace

const char* onnx_cbp_all_gather(int stats_type, int64_t channels, int64_t replicas, const char* group,
                                const char* layer, const void* mean, const void* var, const int64_t* count, void* means,
                                void* vars, int64_t* counts) {
  // Room for the messages: 2 numbers a channel and a count, and a header.
  int64_t all = 0;
  if (const char* reason = onnx_cbp::Product({replicas, channels, 4}, &all)) return reason;
  return Guard("AllGather", layer, group, stats_type, {replicas, channels, 4},
               {{channels, {mean, var}}, {all, {means, vars}}, {replicas, {counts}}, {1, {count}}},
               [&](const Collective& collective) {
                 if (const int64_t there = collective.Replicas(); there != replicas) {
                   throw CollectiveError("there is room for " + std::to_string(replicas) +
                                         " replicas, and the group has " + std::to_string(there));
                 }
                 return onnx_cbp::AllGather(collective, stats_type, channels, replicas, mean, var, count, means, vars,
                                            counts);
               });
}

const char* onnx_cbp_all_reduce(int stats_type, int64_t channels, const char* group, const char* reduction,
                                const char* layer, const void* scale_grad, const void* bias_grad,
                                void* reduced_scale_grad, void* reduced_bias_grad) {
  if (reduction == nullptr) return kNoReduction;
  return Guard("AllReduce", layer, group, stats_type, {channels, 2},
               {{channels, {scale_grad, bias_grad, reduced_scale_grad, reduced_bias_grad}}},
               [&](const Collective& collective) {
                 return onnx_cbp::AllReduce(collective, stats_type, channels, onnx_cbp::IsMean(reduction), scale_grad,
                                            bias_grad, reduced_scale_grad, reduced_bias_grad);
               });
}

const char* onnx_cbp_all_reduce_bucket(int stats_type, int64_t elements, const char* group, const char* reduction,
                                       const char* layer, const void* bucket, void* reduced) {
  if (reduction == nullptr) return kNoReduction;
  return Guard("AllReduceBucket", layer, group, stats_type, {elements}, {{elements, {bucket, reduced}}},
               [&](const Collective& collective) {
                 return onnx_cbp::AllReduceBucket(collective, stats_type, elements, onnx_cbp::IsMean(reduction), bucket,
                                                  reduced);
               });
}
