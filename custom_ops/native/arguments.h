// The checks that every plain C function makes first: it refuses unknown types, impossible sizes, and tensors that are
// null.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/convolutions/window_attributes.h"
#include "kernels/element_types.h"
#include "ops/formals.h"

namespace onnx_cbp {

constexpr const char* kUnknownType =
    "unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), statistics float or double";

inline bool IsElementType(int type) {
  return type == kFloat || type == kFloat16 || type == kDouble || type == kBFloat16;
}

inline bool IsStatisticsType(int type) { return type == kFloat || type == kDouble; }

// Computes the product of sizes. Returns null, or one line if a size is negative or the product overflows int64.
inline const char* Product(std::initializer_list<int64_t> sizes, int64_t* elements) {
  bool too_many = false, none = false;
  *elements = 1;
  for (const int64_t size : sizes) {
    if (size < 0) return "a size is negative";
    none = none || size == 0;
    too_many = too_many || __builtin_mul_overflow(*elements, size, elements);
  }
  if (none) *elements = 0;
  return too_many && !none ? "the tensor has more elements than an int64 can count" : nullptr;
}

// Counts the elements of a tensor [outer, channels, inner]. The elements of one channel must be countable even if there
// are no channels.
inline const char* ElementsOf(int64_t outer, int64_t channels, int64_t inner, int64_t* elements) {
  int64_t of_channel = 0;
  const char* reason = Product({outer, channels, inner}, elements);
  return reason != nullptr ? reason : Product({outer, inner}, &of_channel);
}

// A tensor of a call. It may be null if it is empty.
struct Tensor {
  ShapeOf shape;
  const void* data;
};

// size(shape) is the number of elements of the tensors of a shape.
template <typename Size>
const char* MissingTensor(std::initializer_list<Tensor> tensors, Size&& size) {
  for (const Tensor& tensor : tensors) {
    if (tensor.data == nullptr && size(tensor.shape) != 0) return "a pointer is null, and its tensor is not empty";
  }
  return nullptr;
}

// For a call with vectors only, of which only matters whether they are empty.
struct SizeOfVectors {
  int64_t replicas, channels;

  int64_t operator()(ShapeOf shape) const {
    if (shape == ShapeOf::kReplicaChannels) return replicas == 0 ? 0 : channels;
    return shape == ShapeOf::kReplicas ? replicas : shape == ShapeOf::kChannels ? channels : 1;
  }
};

// Lists the tensors of a function that has the parameters of the table (ops/table.h).
#define ONNX_CBP_NO_TENSOR(type, name)
#define ONNX_CBP_TENSOR(name, formal, kind) {::onnx_cbp::ONNX_CBP_SHAPE_##kind, name},
#define ONNX_CBP_TENSORS(name) {ONNX_CBP_OF_##name(ONNX_CBP_NO_TENSOR, ONNX_CBP_TENSOR, ONNX_CBP_TENSOR)}

// What a plain C function is told about the data of a convolution. It is either depthwise, with `multiplier` results
// per channel, or of one group, with `outputs` results.
struct WindowData {
  int64_t batch, channels, results;
  int64_t axes;
  const int64_t* size;
  bool dense = false;
};

// How many elements its tensors have.
struct WindowSizes {
  int64_t data, results, weight;
};

// Computes the windows of a convolution, and how many elements its tensors have. Returns null, or what is wrong.
inline const char* WindowsOf(const WindowData& data, const WindowAttributes& attributes, Windows* windows,
                             WindowSizes* sizes) {
  int64_t elements = 0;
  if (const char* reason = Product({data.batch, data.channels, data.results, data.axes}, &elements)) return reason;
  for (const int64_t* list :
       {data.size, attributes.kernel_shape, attributes.strides, attributes.pads, attributes.dilations}) {
    if (list == nullptr) return "a pointer is null, and its list is not empty";
  }
  windows->batch = data.batch;
  windows->channels = data.channels;
  (data.dense ? windows->outputs : windows->multiplier) = data.results;
  windows->dense = data.dense;
  if (const char* reason = SetWindows(data.axes, data.size, attributes, windows)) return reason;
  const WindowAxis* axes = windows->axes;
  int64_t padded = 0;  // copies of the data have room for the padding
  if (const char* reason = Product(
          {data.batch, data.channels, data.results, axes[0].padded(), axes[1].padded(), axes[2].padded()}, &padded)) {
    return reason;
  }
  const int64_t results = windows->results();
  if (const char* reason =
          Product({data.batch, data.channels, axes[0].size, axes[1].size, axes[2].size}, &sizes->data)) {
    return reason;
  }
  if (const char* reason =
          Product({data.batch, results, axes[0].count, axes[1].count, axes[2].count}, &sizes->results)) {
    return reason;
  }
  const int64_t seen = data.dense ? data.channels : 1;
  return Product({results, seen, axes[0].kernel, axes[1].kernel, axes[2].kernel}, &sizes->weight);
}

}  // namespace onnx_cbp
