// The gradient of a depthwise convolution's weight.
#include "../../arguments.h"
#include "../../kernels/convolutions/windows.h"
#include "../../kernels/element_types.h"
#include "../c_api.h"
#include "../queue.h"

namespace onnx_cbp::cuda {
namespace {

// One block for each element of the weight, as in PyTorch. Each block reads its channel of dy, and the part of x that
// its element sees. Blocks read the same data again and again, but from the L2 cache.
//
// Index counts the windows of a channel. With 32 bits, the place of a window takes a fraction of the instructions.
template <typename T, typename V, typename Index>
struct DepthwiseGradWeight {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksResident = 4;
  static constexpr int kRun = 16;  // how many products are added in V before the sum goes on in double

  Windows windows;
  const T* x;
  const T* dy;
  T* dw;

  // The element of x that window i of the sample sees in its plane.
  ONNX_CBP_DEVICE V Seen(const T* plane, Index i, const int64_t (&element)[Windows::kAxes]) const {
    int64_t at = 0, pitch = 1;
    for (int a = Windows::kAxes; a-- > 0;) {
      const WindowAxis& axis = windows.axes[a];
      const Index count = static_cast<Index>(axis.count);
      const int64_t place = static_cast<int64_t>(i % count) * axis.stride + element[a] * axis.dilation - axis.before;
      i /= count;
      if (place < 0 || place >= axis.size) return V{0};
      at += place * pitch;
      pitch *= axis.size;
    }
    return static_cast<V>(Load(plane[at]));
  }

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t kernel = windows.kernel(), results = windows.results(), size = windows.size();
    const int64_t result = block.index() / kernel, channel = result / windows.multiplier;
    int64_t element[Windows::kAxes], rest = block.index() % kernel;
    for (int a = Windows::kAxes; a-- > 0;) {
      element[a] = rest % windows.axes[a].kernel;
      rest /= windows.axes[a].kernel;
    }
    const Index count = static_cast<Index>(windows.count()), all = static_cast<Index>(windows.batch) * count;
    typename Block::template PerThread<double> sums;
    block.ForEachThread([&](int thread) {
      double sum = 0.0;
      V run = V{0};
      int added = 0;
      for (Index i = static_cast<Index>(thread); i < all; i += kThreads) {
        const int64_t sample = static_cast<int64_t>(i / count);
        const Index window = i % count;
        const V seen = Seen(x + (sample * windows.channels + channel) * size, window, element);
        run += seen * static_cast<V>(Load(dy[(sample * results + result) * windows.count() + window]));
        if (++added == kRun) {
          sum += static_cast<double>(run);
          run = V{0};
          added = 0;
        }
      }
      sums[thread] = sum + static_cast<double>(run);
    });
    const double total = block.Reduce(sums, [](double a, double b) { return a + b; });
    block.ForEachThread([&](int thread) {
      if (thread == 0) Store(total, dw + block.index());
    });
  }
};

}  // namespace
}  // namespace onnx_cbp::cuda

using namespace onnx_cbp::cuda;  // NOLINT: only the definition of a C function follows

const char* onnx_cbp_cuda_depthwise_conv_grad_weight(onnx_cbp_cuda_queue queue,
                                                     ONNX_CBP_PARAMETERS(depthwise_conv_grad_weight,
                                                                         DepthwiseWindows)) {
  Queue q(__func__, queue);
  onnx_cbp::Windows windows;
  onnx_cbp::WindowSizes sizes{};
  if (const char* reason = onnx_cbp::WindowsOf({batch, channels, multiplier, axes, size},
                                               {kernel_shape, strides, pads, dilations}, &windows, &sizes)) {
    q.Fail(reason);
    return q.result();
  }
  const bool known = onnx_cbp::DispatchData(x_type, [&](auto t) {
    using T = decltype(t);
    using V = onnx_cbp::ComputeType<T, float>;
    const T* data = static_cast<const T*>(x);
    const T* gradient = static_cast<const T*>(dy);
    T* out = static_cast<T*>(dw);
    // Not UINT32_MAX, since threads step beyond the last window.
    if (batch * windows.count() < INT32_MAX) {
      q.Launch(DepthwiseGradWeight<T, V, uint32_t>{windows, data, gradient, out}, sizes.weight);
    } else {
      q.Launch(DepthwiseGradWeight<T, V, uint64_t>{windows, data, gradient, out}, sizes.weight);
    }
  });
  if (!known) q.Fail(onnx_cbp::kUnknownType);
  return q.result();
}
