#include "c_api.h"

#include <new>

#include "kernels/batch_norm_grad.h"
#include "kernels/batch_norm_train.h"
#include "kernels/batch_norm_train_update.h"
#include "kernels/channel_backprop.h"
#include "kernels/channel_backprop_stats.h"
#include "kernels/channel_backprop_stats_grad.h"
#include "kernels/channel_normalize.h"
#include "kernels/channel_stats.h"
#include "kernels/channel_stats_merge.h"
#include "kernels/running_stats.h"
#include "kernels/targets.h"

namespace {

using onnx_cbp::Layout;

// Runs a kernel on this thread; nothing leaves as an exception.
template <typename F>
const char* Guard(int64_t outer, int64_t channels, int64_t inner, F&& kernel) {
  if (outer < 0 || channels < 0 || inner < 0) return "a size is negative";
  try {
    return kernel(onnx_cbp::SerialExecutor{}, Layout{outer, channels, inner})
               ? nullptr
               : "unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), "
                 "statistics float or double";
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (...) {
    return "unexpected error";
  }
}

}  // namespace

const char* onnx_cbp_version(void) { return ONNX_CBP_VERSION; }

const char* onnx_cbp_target(void) { return onnx_cbp::ActiveTargetName(); }

const char* onnx_cbp_channel_stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                   const void* x, void* mean, void* var, int64_t* count) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::ChannelStats(x_type, stats_type, executor, layout, x, mean, var, count);
  });
}

const char* onnx_cbp_channel_normalize(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                       double epsilon, const void* x, const void* scale, const void* b,
                                       const void* mean, const void* var, void* y) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::ChannelNormalize(x_type, stats_type, executor, layout, epsilon, x, scale, b, mean, var, y);
  });
}

const char* onnx_cbp_channel_backprop_stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                            const void* x, const void* mean, const void* inv_std, const void* dy,
                                            void* scale_grad, void* bias_grad) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::ChannelBackpropStats(x_type, stats_type, executor, layout, x, mean, inv_std, dy, scale_grad,
                                          bias_grad);
  });
}

const char* onnx_cbp_channel_backprop(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                      const void* dy, const void* x, const void* scale, const void* mean,
                                      const void* inv_std, const void* scale_grad, const void* bias_grad,
                                      const int64_t* count, void* dx) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::ChannelBackprop(x_type, stats_type, executor, layout, dy, x, scale, mean, inv_std, scale_grad,
                                     bias_grad, count, dx);
  });
}

const char* onnx_cbp_running_stats(int stats_type, int64_t channels, double momentum, int unbiased, const void* running,
                                   const void* batch, const int64_t* count, void* updated) {
  return Guard(1, channels, 1, [&](const auto&, const Layout&) {
    return onnx_cbp::RunningStats(stats_type, channels, momentum, unbiased != 0, running, batch, count, updated);
  });
}

const char* onnx_cbp_channel_stats_merge(int stats_type, int64_t replicas, int64_t channels, const void* mean,
                                         const void* var, const int64_t* count, void* merged_mean, void* merged_var,
                                         int64_t* merged_count) {
  return Guard(replicas, channels, 1, [&](const auto&, const Layout&) {
    return onnx_cbp::ChannelStatsMerge(stats_type, replicas, channels, mean, var, count, merged_mean, merged_var,
                                       merged_count);
  });
}

const char* onnx_cbp_channel_backprop_stats_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                 int64_t inner, const void* x, const void* mean, const void* inv_std,
                                                 const void* dy, const void* d_scale_grad, const void* d_bias_grad,
                                                 void* dx, void* d_mean, void* d_inv_std, void* d_dy) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::ChannelBackpropStatsGrad(x_type, stats_type, executor, layout, x, mean, inv_std, dy, d_scale_grad,
                                              d_bias_grad, dx, d_mean, d_inv_std, d_dy);
  });
}

const char* onnx_cbp_batch_norm_train(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                      double epsilon, const void* x, const void* scale, const void* b, void* y,
                                      void* mean, void* var, int64_t* count) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    *count = layout.outer * layout.inner;
    return onnx_cbp::BatchNormTrain(x_type, stats_type, executor, layout, epsilon, false, x, scale, b,
                                    {y, mean, var, nullptr});
  });
}

const char* onnx_cbp_batch_norm_grad(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                     const void* dy, const void* x, const void* scale, const void* mean,
                                     const void* inv_std, void* dx, void* scale_grad, void* bias_grad) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {}, x, scale, mean, inv_std, dx,
                                   scale_grad, bias_grad);
  });
}

const char* onnx_cbp_batch_norm_train_update(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                             double epsilon, double momentum, int unbiased, int relu, const void* x,
                                             const void* scale, const void* b, const void* running_mean,
                                             const void* running_var, void* y, void* mean, void* inv_std,
                                             void* updated_mean, void* updated_var) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::BatchNormTrainUpdate(
        x_type, stats_type, executor, layout, epsilon, relu != 0, x, scale, b,
        {momentum, unbiased != 0, running_mean, running_var, updated_mean, updated_var}, {y, mean, nullptr, inv_std});
  });
}

const char* onnx_cbp_batch_norm_relu_grad(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                          const void* dy, const void* y, const void* x, const void* scale,
                                          const void* mean, const void* inv_std, void* dx, void* scale_grad,
                                          void* bias_grad) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {y}, x, scale, mean, inv_std, dx,
                                   scale_grad, bias_grad);
  });
}

const char* onnx_cbp_batch_norm_relu_train_update(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                  int64_t inner, double epsilon, double momentum, int unbiased,
                                                  const void* x, const void* scale, const void* b,
                                                  const void* running_mean, const void* running_var, void* y,
                                                  void* mean, void* inv_std, void* updated_mean, void* updated_var,
                                                  void* slope, void* offset) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::BatchNormTrainUpdate(
        x_type, stats_type, executor, layout, epsilon, true, x, scale, b,
        {momentum, unbiased != 0, running_mean, running_var, updated_mean, updated_var},
        {y, mean, nullptr, inv_std, slope, offset});
  });
}

const char* onnx_cbp_batch_norm_recompute_relu_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                    int64_t inner, const void* dy, const void* x, const void* scale,
                                                    const void* mean, const void* inv_std, const void* slope,
                                                    const void* offset, void* dx, void* scale_grad, void* bias_grad) {
  return Guard(outer, channels, inner, [&](const auto& executor, const Layout& layout) {
    return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {nullptr, slope, offset}, x, scale, mean,
                                   inv_std, dx, scale_grad, bias_grad);
  });
}
