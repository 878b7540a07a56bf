// The collectives as plain C functions (c_api.h).
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "../c_api.h"
#include "all_gather.h"
#include "all_reduce.h"

namespace {

using onnx_cbp::Collective;

// Runs a collective; nothing leaves as an exception.
template <typename F>
const char* Guard(const char* name, const char* layer, const char* group, F&& run) {
  thread_local std::string text;
  try {
    const Collective collective(name, layer, group, Collective::kNoNode);
    return run(collective) ? nullptr : "unknown type: statistics are float (1) or double (11)";
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  } catch (...) {
    return "unexpected error";
  }
}

}  // namespace

const char* onnx_cbp_all_gather(int stats_type, int64_t channels, int64_t replicas, const char* group,
                                const char* layer, const void* mean, const void* var, const int64_t* count, void* means,
                                void* vars, int64_t* counts) {
  return Guard("AllGather", layer, group, [&](const Collective& collective) {
    return onnx_cbp::AllGather(collective, stats_type, channels, replicas, mean, var, count, means, vars, counts);
  });
}

const char* onnx_cbp_all_reduce(int stats_type, int64_t channels, const char* group, const char* reduction,
                                const char* layer, const void* scale_grad, const void* bias_grad,
                                void* reduced_scale_grad, void* reduced_bias_grad) {
  return Guard("AllReduce", layer, group, [&](const Collective& collective) {
    return onnx_cbp::AllReduce(collective, stats_type, channels, onnx_cbp::IsMean(reduction), scale_grad, bias_grad,
                               reduced_scale_grad, reduced_bias_grad);
  });
}

const char* onnx_cbp_all_reduce_bucket(int stats_type, int64_t elements, const char* group, const char* reduction,
                                       const char* layer, const void* bucket, void* reduced) {
  return Guard("AllReduceBucket", layer, group, [&](const Collective& collective) {
    return onnx_cbp::AllReduceBucket(collective, stats_type, elements, onnx_cbp::IsMean(reduction), bucket, reduced);
  });
}
