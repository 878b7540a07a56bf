// The kernels as plain C functions.
#include "c_api.h"

#include <initializer_list>
#include <new>
#include <stdexcept>

#include "arguments.h"
#include "kernels/op.h"
#include "kernels/processors/targets.h"
#include "ops/formals.h"

// A test may define another executor here (tests/variants/threaded_executor.h).
#if !defined(ONNX_CBP_C_EXECUTOR)
#define ONNX_CBP_C_EXECUTOR SerialExecutor
#endif

namespace onnx_cbp {
namespace {

// Runs a kernel on this thread. No exception leaves it.
template <typename F>
const char* Guard(F&& kernel) {
  try {
    return kernel() ? nullptr : kUnknownType;
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::length_error&) {
    return "out of memory";
  } catch (...) {
    return "unexpected error";
  }
}

// The functions below run kernel(call), and refuse impossible types, sizes and pointers. Each is named after the sizes
// that it gets (ops/table.h).
template <typename F>
const char* RunTensor(std::initializer_list<Tensor> tensors, F&& kernel, int x_type, int stats_type, int64_t outer,
                      int64_t channels, int64_t inner) {
  if (!IsElementType(x_type) || !IsStatisticsType(stats_type)) return kUnknownType;
  int64_t elements = 0;
  if (const char* reason = ElementsOf(outer, channels, inner, &elements)) return reason;
  const auto size = [&](ShapeOf shape) {
    return shape == ShapeOf::kData ? elements : shape == ShapeOf::kChannels ? channels : 1;
  };
  if (const char* reason = MissingTensor(tensors, size)) return reason;
  return Guard(
      [&] { return kernel(TensorCall{x_type, stats_type, ONNX_CBP_C_EXECUTOR{}, Layout{outer, channels, inner}}); });
}

template <typename F>
const char* RunReplicas(std::initializer_list<Tensor> tensors, F&& kernel, int stats_type, int64_t replicas,
                        int64_t channels) {
  if (!IsStatisticsType(stats_type)) return kUnknownType;
  int64_t elements = 0;
  if (const char* reason = Product({replicas, channels}, &elements)) return reason;
  if (const char* reason = MissingTensor(tensors, SizeOfVectors{replicas, channels})) return reason;
  return Guard([&] { return kernel(ReplicasCall{stats_type, replicas, channels}); });
}

template <typename F>
const char* RunVectors(std::initializer_list<Tensor> tensors, F&& kernel, int stats_type, int64_t channels) {
  const auto of_one = [&](const ReplicasCall& call) { return kernel(VectorsCall{call.stats_type, call.channels}); };
  return RunReplicas(tensors, of_one, stats_type, 1, channels);
}

template <typename F>
const char* RunWindows(std::initializer_list<Tensor> tensors, F&& kernel, int x_type, const WindowData& data,
                       const WindowAttributes& attributes) {
  if (!IsElementType(x_type)) return kUnknownType;
  WindowSizes sizes;
  Windows windows;
  if (const char* reason = WindowsOf(data, attributes, &windows, &sizes)) return reason;
  const auto size = [&](ShapeOf shape) {
    if (shape == ShapeOf::kData) return sizes.data;
    return shape == ShapeOf::kWindows || shape == ShapeOf::kOutputs ? sizes.results : sizes.weight;
  };
  if (const char* reason = MissingTensor(tensors, size)) return reason;
  return Guard([&] { return kernel(WindowsCall{x_type, ONNX_CBP_C_EXECUTOR{}, windows}); });
}

template <typename F>
const char* RunDepthwiseWindows(std::initializer_list<Tensor> tensors, F&& kernel, int x_type, int64_t batch,
                                int64_t channels, int64_t multiplier, int64_t axes, const int64_t* size,
                                const int64_t* kernel_shape, const int64_t* strides, const int64_t* pads,
                                const int64_t* dilations) {
  return RunWindows(tensors, kernel, x_type, {batch, channels, multiplier, axes, size},
                    {kernel_shape, strides, pads, dilations});
}

template <typename F>
const char* RunDenseWindows(std::initializer_list<Tensor> tensors, F&& kernel, int x_type, int64_t batch,
                            int64_t channels, int64_t outputs, int64_t axes, const int64_t* size,
                            const int64_t* kernel_shape, const int64_t* strides, const int64_t* pads,
                            const int64_t* dilations) {
  return RunWindows(tensors, kernel, x_type, {batch, channels, outputs, axes, size, true},
                    {kernel_shape, strides, pads, dilations});
}

}  // namespace
}  // namespace onnx_cbp

const char* onnx_cbp_version(void) { return ONNX_CBP_VERSION; }

const char* onnx_cbp_target(void) { return onnx_cbp::ActiveTargetName(); }

#define ONNX_CBP_DEFINE(Name, name, sizes)                                                               \
  const char* onnx_cbp_##name(ONNX_CBP_PARAMETERS(name, sizes)) {                                        \
    const auto run = [&](const auto& call) { return onnx_cbp::Name(call, ONNX_CBP_TAKEN(Name, name)); }; \
    return onnx_cbp::Run##sizes(ONNX_CBP_TENSORS(name), run, ONNX_CBP_VALUES_##sizes);                   \
  }
ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_DEFINE)
ONNX_CBP_CONVOLUTIONS(ONNX_CBP_DEFINE)
