#include "c_api.h"

#include <initializer_list>
#include <new>
#include <stdexcept>

#include "arguments.h"
#include "kernels/batch_norm_grad.h"
#include "kernels/batch_norm_train.h"
#include "kernels/batch_norm_train_update.h"
#include "kernels/channel_backprop.h"
#include "kernels/channel_backprop_stats.h"
#include "kernels/channel_backprop_stats_grad.h"
#include "kernels/channel_normalize.h"
#include "kernels/channel_stats.h"
#include "kernels/channel_stats_merge.h"
#include "kernels/conv.h"
#include "kernels/depthwise_conv_grad_weight.h"
#include "kernels/running_stats.h"
#include "kernels/targets.h"

// A test may put another executor here (tests/variants/threaded_executor.h).
#if !defined(ONNX_CBP_C_EXECUTOR)
#define ONNX_CBP_C_EXECUTOR SerialExecutor
#endif

namespace {

using onnx_cbp::Layout;

// Runs a kernel on this thread; nothing leaves as an exception.
template <typename F>
const char* Guard(F&& kernel) {
  try {
    return kernel() ? nullptr : onnx_cbp::kUnknownType;
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::length_error&) {
    return "out of memory";
  } catch (...) {
    return "unexpected error";
  }
}

// The tensors of a call: of the size of X, one number a channel, and counts.
struct Arguments {
  std::initializer_list<const void*> tensors, vectors, counts;
};

// Runs a kernel on the windows of a convolution, where type, sizes and lists are what they can be and missing(sizes)
// answers null.
template <typename M, typename F>
const char* OfConv(int x_type, const onnx_cbp::WindowData& data, const onnx_cbp::WindowAttributes& attributes,
                   M&& missing, F&& kernel) {
  if (!onnx_cbp::IsElementType(x_type)) return onnx_cbp::kUnknownType;
  onnx_cbp::WindowSizes sizes;
  onnx_cbp::Windows windows;
  if (const char* reason = onnx_cbp::WindowsOf(data, attributes, &windows, &sizes)) return reason;
  if (const char* reason = missing(sizes)) return reason;
  return Guard([&] { return kernel(windows); });
}

// Runs a kernel on a tensor, where types, sizes and pointers are what they can be.
template <typename F>
const char* WithTensors(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                        const Arguments& arguments, F&& kernel) {
  if (!onnx_cbp::IsElementType(x_type) || !onnx_cbp::IsStatisticsType(stats_type)) return onnx_cbp::kUnknownType;
  int64_t elements = 0, number = 0;
  if (const char* reason = onnx_cbp::Product({outer, channels, inner}, &elements)) return reason;
  if (const char* reason = onnx_cbp::Product({outer, inner}, &number)) return reason;
  if (const char* reason = onnx_cbp::MissingTensor(
          {{elements, arguments.tensors}, {channels, arguments.vectors}, {1, arguments.counts}})) {
    return reason;
  }
  return Guard([&] { return kernel(onnx_cbp::ONNX_CBP_C_EXECUTOR{}, Layout{outer, channels, inner}); });
}

}  // namespace

const char* onnx_cbp_version(void) { return ONNX_CBP_VERSION; }

const char* onnx_cbp_target(void) { return onnx_cbp::ActiveTargetName(); }

const char* onnx_cbp_channel_stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                   const void* x, void* mean, void* var, int64_t* count) {
  const Arguments arguments{{x}, {mean, var}, {count}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::ChannelStats(x_type, stats_type, executor, layout, x, mean, var, count);
                     });
}

const char* onnx_cbp_channel_normalize(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                       double epsilon, const void* x, const void* scale, const void* b,
                                       const void* mean, const void* var, void* y) {
  const Arguments arguments{{x, y}, {scale, b, mean, var}, {}};
  return WithTensors(
      x_type, stats_type, outer, channels, inner, arguments, [&](const auto& executor, const Layout& layout) {
        return onnx_cbp::ChannelNormalize(x_type, stats_type, executor, layout, epsilon, x, scale, b, mean, var, y);
      });
}

const char* onnx_cbp_channel_backprop_stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                            const void* x, const void* mean, const void* inv_std, const void* dy,
                                            void* scale_grad, void* bias_grad) {
  const Arguments arguments{{x, dy}, {mean, inv_std, scale_grad, bias_grad}, {}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::ChannelBackpropStats(x_type, stats_type, executor, layout, x, mean, inv_std, dy,
                                                             scale_grad, bias_grad);
                     });
}

const char* onnx_cbp_channel_backprop(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                      const void* dy, const void* x, const void* scale, const void* mean,
                                      const void* inv_std, const void* scale_grad, const void* bias_grad,
                                      const int64_t* count, void* dx) {
  const Arguments arguments{{dy, x, dx}, {scale, mean, inv_std, scale_grad, bias_grad}, {count}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::ChannelBackprop(x_type, stats_type, executor, layout, dy, x, scale, mean,
                                                        inv_std, scale_grad, bias_grad, count, dx);
                     });
}

const char* onnx_cbp_depthwise_conv_grad_weight(int x_type, int64_t batch, int64_t channels, int64_t multiplier,
                                                int64_t axes, const int64_t* size, const int64_t* kernel_shape,
                                                const int64_t* strides, const int64_t* pads, const int64_t* dilations,
                                                const void* x, const void* dy, void* dw) {
  return OfConv(
      x_type, {batch, channels, multiplier, axes, size}, {kernel_shape, strides, pads, dilations},
      [&](const onnx_cbp::WindowSizes& sizes) {
        return onnx_cbp::MissingTensor({{sizes.data, {x}}, {sizes.results, {dy}}, {sizes.weight, {dw}}});
      },
      [&](const onnx_cbp::Windows& windows) {
        return onnx_cbp::DepthwiseConvGradWeight(x_type, onnx_cbp::ONNX_CBP_C_EXECUTOR{}, windows, x, dy, dw);
      });
}

const char* onnx_cbp_direct_conv(int x_type, int64_t batch, int64_t channels, int64_t outputs, int64_t axes,
                                 const int64_t* size, const int64_t* kernel_shape, const int64_t* strides,
                                 const int64_t* pads, const int64_t* dilations, const void* x, const void* w, void* y) {
  return OfConv(
      x_type, {batch, channels, outputs, axes, size, true}, {kernel_shape, strides, pads, dilations},
      [&](const onnx_cbp::WindowSizes& sizes) {
        return onnx_cbp::MissingTensor({{sizes.data, {x}}, {sizes.weight, {w}}, {sizes.results, {y}}});
      },
      [&](const onnx_cbp::Windows& windows) {
        return onnx_cbp::DirectConv(x_type, onnx_cbp::ONNX_CBP_C_EXECUTOR{}, windows, false, x, w, y);
      });
}

const char* onnx_cbp_direct_conv_exchanged(int x_type, int64_t batch, int64_t channels, int64_t outputs, int64_t axes,
                                           const int64_t* size, const int64_t* kernel_shape, const int64_t* strides,
                                           const int64_t* pads, const int64_t* dilations, const void* x, const void* w,
                                           void* y) {
  return OfConv(
      x_type, {batch, channels, outputs, axes, size, true}, {kernel_shape, strides, pads, dilations},
      [&](const onnx_cbp::WindowSizes& sizes) {
        return onnx_cbp::MissingTensor({{sizes.data, {x}}, {sizes.weight, {w}}, {sizes.results, {y}}});
      },
      [&](const onnx_cbp::Windows& windows) {
        return onnx_cbp::DirectConv(x_type, onnx_cbp::ONNX_CBP_C_EXECUTOR{}, windows, true, x, w, y);
      });
}

const char* onnx_cbp_conv_grad_weight(int x_type, int64_t batch, int64_t channels, int64_t outputs, int64_t axes,
                                      const int64_t* size, const int64_t* kernel_shape, const int64_t* strides,
                                      const int64_t* pads, const int64_t* dilations, const void* x, const void* dy,
                                      void* dw) {
  return OfConv(
      x_type, {batch, channels, outputs, axes, size, true}, {kernel_shape, strides, pads, dilations},
      [&](const onnx_cbp::WindowSizes& sizes) {
        return onnx_cbp::MissingTensor({{sizes.data, {x}}, {sizes.results, {dy}}, {sizes.weight, {dw}}});
      },
      [&](const onnx_cbp::Windows& windows) {
        return onnx_cbp::ConvGradWeight(x_type, onnx_cbp::ONNX_CBP_C_EXECUTOR{}, windows, x, dy, dw);
      });
}

const char* onnx_cbp_running_stats(int stats_type, int64_t channels, double momentum, int unbiased, const void* running,
                                   const void* batch, const int64_t* count, void* updated) {
  if (!onnx_cbp::IsStatisticsType(stats_type)) return onnx_cbp::kUnknownType;
  int64_t elements = 0;
  if (const char* reason = onnx_cbp::Product({channels}, &elements)) return reason;
  if (const char* reason = onnx_cbp::MissingTensor({{elements, {running, batch, updated}}, {1, {count}}}))
    return reason;
  return Guard([&] {
    return onnx_cbp::RunningStats(stats_type, channels, momentum, unbiased != 0, running, batch, count, updated);
  });
}

const char* onnx_cbp_channel_stats_merge(int stats_type, int64_t replicas, int64_t channels, const void* mean,
                                         const void* var, const int64_t* count, void* merged_mean, void* merged_var,
                                         int64_t* merged_count) {
  if (!onnx_cbp::IsStatisticsType(stats_type)) return onnx_cbp::kUnknownType;
  int64_t elements = 0;
  if (const char* reason = onnx_cbp::Product({replicas, channels}, &elements)) return reason;
  if (const char* reason = onnx_cbp::MissingTensor(
          {{elements, {mean, var}}, {replicas, {count}}, {channels, {merged_mean, merged_var}}, {1, {merged_count}}})) {
    return reason;
  }
  return Guard([&] {
    return onnx_cbp::ChannelStatsMerge(stats_type, replicas, channels, mean, var, count, merged_mean, merged_var,
                                       merged_count);
  });
}

const char* onnx_cbp_channel_backprop_stats_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                 int64_t inner, const void* x, const void* mean, const void* inv_std,
                                                 const void* dy, const void* d_scale_grad, const void* d_bias_grad,
                                                 void* dx, void* d_mean, void* d_inv_std, void* d_dy) {
  const Arguments arguments{{x, dy, dx, d_dy}, {mean, inv_std, d_scale_grad, d_bias_grad, d_mean, d_inv_std}, {}};
  return WithTensors(
      x_type, stats_type, outer, channels, inner, arguments, [&](const auto& executor, const Layout& layout) {
        return onnx_cbp::ChannelBackpropStatsGrad(x_type, stats_type, executor, layout, x, mean, inv_std, dy,
                                                  d_scale_grad, d_bias_grad, dx, d_mean, d_inv_std, d_dy);
      });
}

const char* onnx_cbp_batch_norm_train(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                      double epsilon, const void* x, const void* scale, const void* b, void* y,
                                      void* mean, void* var, int64_t* count) {
  const Arguments arguments{{x, y}, {scale, b, mean, var}, {count}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       *count = layout.outer * layout.inner;
                       return onnx_cbp::BatchNormTrain(x_type, stats_type, executor, layout, epsilon, false, x, scale,
                                                       b, {y, mean, var, nullptr});
                     });
}

const char* onnx_cbp_batch_norm_grad(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                     const void* dy, const void* x, const void* scale, const void* mean,
                                     const void* inv_std, void* dx, void* scale_grad, void* bias_grad) {
  const Arguments arguments{{dy, x, dx}, {scale, mean, inv_std, scale_grad, bias_grad}, {}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {}, x, scale, mean,
                                                      inv_std, dx, scale_grad, bias_grad);
                     });
}

const char* onnx_cbp_batch_norm_train_update(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                             double epsilon, double momentum, int unbiased, int relu, const void* x,
                                             const void* scale, const void* b, const void* running_mean,
                                             const void* running_var, void* y, void* mean, void* inv_std,
                                             void* updated_mean, void* updated_var) {
  const Arguments arguments{
      {x, y}, {scale, b, running_mean, running_var, mean, inv_std, updated_mean, updated_var}, {}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::BatchNormTrainUpdate(
                           x_type, stats_type, executor, layout, epsilon, relu != 0, x, scale, b,
                           {momentum, unbiased != 0, running_mean, running_var, updated_mean, updated_var},
                           {y, mean, nullptr, inv_std});
                     });
}

const char* onnx_cbp_batch_norm_relu_grad(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner,
                                          const void* dy, const void* y, const void* x, const void* scale,
                                          const void* mean, const void* inv_std, void* dx, void* scale_grad,
                                          void* bias_grad) {
  const Arguments arguments{{dy, y, x, dx}, {scale, mean, inv_std, scale_grad, bias_grad}, {}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
                       return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {y}, x, scale, mean,
                                                      inv_std, dx, scale_grad, bias_grad);
                     });
}

const char* onnx_cbp_batch_norm_relu_train_update(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                  int64_t inner, double epsilon, double momentum, int unbiased,
                                                  const void* x, const void* scale, const void* b,
                                                  const void* running_mean, const void* running_var, void* y,
                                                  void* mean, void* inv_std, void* updated_mean, void* updated_var,
                                                  void* slope, void* offset) {
  const Arguments arguments{
      {x, y}, {scale, b, running_mean, running_var, mean, inv_std, updated_mean, updated_var, slope, offset}, {}};
  return WithTensors(x_type, stats_type, outer, channels, inner, arguments,
                     [&](const auto& executor, const Layout& layout) {
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
  const Arguments arguments{{dy, x, dx}, {scale, mean, inv_std, slope, offset, scale_grad, bias_grad}, {}};
  return WithTensors(
      x_type, stats_type, outer, channels, inner, arguments, [&](const auto& executor, const Layout& layout) {
        return onnx_cbp::BatchNormGrad(x_type, stats_type, executor, layout, dy, {nullptr, slope, offset}, x, scale,
                                       mean, inv_std, dx, scale_grad, bias_grad);
      });
}
