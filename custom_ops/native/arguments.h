// What every plain C function refuses before it does anything: unknown types, sizes that cannot be, and null for a
// tensor.
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

// The product of sizes. Returns null, or one line where a size is negative or an int64 cannot count that many.
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

// Elements of a tensor [outer, channels, inner]. Those of a channel have to be countable even where it has no channels.
inline const char* ElementsOf(int64_t outer, int64_t channels, int64_t inner, int64_t* elements) {
  int64_t of_channel = 0;
  const char* reason = Product({outer, channels, inner}, elements);
  return reason != nullptr ? reason : Product({outer, inner}, &of_channel);
}

// A tensor of a call. It may be null where it is empty.
struct Tensor {
  ShapeOf shape;
  const void* data;
};

// size(shape): elements of the tensors of a shape.
template <typename Size>
const char* MissingTensor(std::initializer_list<Tensor> tensors, Size&& size) {
  for (const Tensor& tensor : tensors) {
    if (tensor.data == nullptr && size(tensor.shape) != 0) return "a pointer is null, and its tensor is not empty";
  }
  return nullptr;
}

// Of a call that sees vectors alone; only whether there are any is looked at.
struct SizeOfVectors {
  int64_t replicas, channels;

  int64_t operator()(ShapeOf shape) const {
    if (shape == ShapeOf::kReplicaChannels) return replicas == 0 ? 0 : channels;
    return shape == ShapeOf::kReplicas ? replicas : shape == ShapeOf::kChannels ? channels : 1;
  }
};

// In a function that has the parameters of the table (ops/table.h): its tensors.
#define ONNX_CBP_NO_TENSOR(type, name)
#define ONNX_CBP_TENSOR(name, formal, kind) {::onnx_cbp::ONNX_CBP_SHAPE_##kind, name},
#define ONNX_CBP_TENSORS(name) {ONNX_CBP_OF_##name(ONNX_CBP_NO_TENSOR, ONNX_CBP_TENSOR, ONNX_CBP_TENSOR)}

// What a plain C function is told of the data of a convolution: depthwise, with so many results of each channel, or of
// one group, with so many outputs.
struct WindowData {
  int64_t batch, channels, results;
  int64_t axes;
  const int64_t* size;
  bool dense = false;
};

// Elements of its tensors.
struct WindowSizes {
  int64_t data, results, weight;
};

// The windows of a convolution, and how many elements its tensors have. Null, or what is wrong.
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
  int64_t padded = 0;  // what is copied has room for the padding
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
