// Infers types and shapes of outputs.
#include "shape_inference.h"

#include <atomic>
#include <memory>
#include <string>

#include "../kernels/convolutions/window_attributes.h"

namespace onnx_cbp {
namespace {

// ONNX Runtime would keep -1 as the size of an output's dimension, and no other size would match it. A name that
// nothing else has means the same as no name.
std::string NewName() {
  static std::atomic<uint64_t> names{0};
  return "onnx_cbp_unknown_" + std::to_string(names++);
}

// Each dimension is a number, or -1 with a name.
struct Dimensions {
  std::vector<int64_t> numbers;
  std::vector<std::string> names;

  void Append(int64_t number, const char* name) {
    numbers.push_back(number);
    names.emplace_back(name ? name : "");
    if (number < 0 && names.back().empty()) names.back() = NewName();
  }
};

struct Known {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Dimensions dimensions;
};

Known InputOf(const OrtShapeInferContext* context, size_t index) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  Ort::ThrowOnError(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  Known known;
  if (info == nullptr) return known;
  Ort::ThrowOnError(api.GetTensorElementType(info, &known.type));
  size_t rank = 0;
  Ort::ThrowOnError(api.GetDimensionsCount(info, &rank));
  std::vector<int64_t> numbers(rank);
  std::vector<const char*> names(rank, nullptr);
  if (rank > 0) {
    Ort::ThrowOnError(api.GetDimensions(info, numbers.data(), rank));
    Ort::ThrowOnError(api.GetSymbolicDimensions(info, names.data(), rank));
  }
  for (size_t i = 0; i < rank; ++i) known.dimensions.Append(numbers[i], names[i]);
  return known;
}

int64_t IntAttribute(const OrtShapeInferContext* context, const char* name, int64_t fallback) {
  const OrtApi& api = Ort::GetApi();
  const OrtOpAttr* attribute = nullptr;
  Ort::Status found{api.ShapeInferContext_GetAttribute(context, name, &attribute)};
  if (!found.IsOK() || attribute == nullptr) return fallback;
  int64_t value = fallback;
  size_t size = 0;
  Ort::Status read{api.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof value, &size)};
  return read.IsOK() ? value : fallback;
}

std::vector<int64_t> IntsAttribute(const OrtShapeInferContext* context, const char* name) {
  const OrtApi& api = Ort::GetApi();
  const OrtOpAttr* attribute = nullptr;
  Ort::Status found{api.ShapeInferContext_GetAttribute(context, name, &attribute)};
  if (!found.IsOK() || attribute == nullptr) return {};
  size_t bytes = 0;
  Ort::Status asked{api.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, nullptr, 0, &bytes)};  // tells the size, and fails
  std::vector<int64_t> values(bytes / sizeof(int64_t));
  Ort::Status read{api.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, values.data(), bytes, &bytes)};
  return read.IsOK() ? values : std::vector<int64_t>{};
}

// How many windows the data has along each axis; -1 if the size of the data is unknown. Nothing if the attributes do
// not fit: the node reports that when it runs.
std::vector<int64_t> CountsOf(const OrtShapeInferContext* context, const std::vector<int64_t>& data) {
  const size_t axes = data.size() - 2;
  const std::vector<int64_t> kernel = IntsAttribute(context, "kernel_shape");
  const std::vector<int64_t> strides = IntsAttribute(context, "strides");
  const std::vector<int64_t> pads = IntsAttribute(context, "pads");
  const std::vector<int64_t> dilations = IntsAttribute(context, "dilations");
  const auto fits = [](const std::vector<int64_t>& list, size_t size) { return list.empty() || list.size() == size; };
  if (kernel.size() != axes || !fits(strides, axes) || !fits(pads, 2 * axes) || !fits(dilations, axes)) return {};
  std::vector<int64_t> counts;
  for (size_t i = 0; i < axes; ++i) {
    Windows windows;
    const int64_t ends[] = {pads.empty() ? 0 : pads[i], pads.empty() ? 0 : pads[axes + i]};
    const char* reason = data[2 + i] < 0 ? "unknown"
                                         : SetWindows(1, &data[2 + i],
                                                      {&kernel[i], strides.empty() ? nullptr : &strides[i], ends,
                                                       dilations.empty() ? nullptr : &dilations[i]},
                                                      &windows);
    counts.push_back(reason == nullptr ? windows.axes[Windows::kAxes - 1].count : -1);
  }
  return counts;
}

// Whether a vector of the channels has another size than the data says. Then the graph declares a wrong shape for X,
// and the op runs all the same.
bool Contradicts(const OpSpec& spec, const OrtShapeInferContext* context, const Known& data) {
  const int64_t rank = static_cast<int64_t>(data.dimensions.numbers.size());
  int64_t axis = IntAttribute(context, "axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) return false;
  const int64_t channels = data.dimensions.numbers[static_cast<size_t>(axis)];
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (spec.inputs[i].shape != ShapeOf::kChannels) continue;
    const std::vector<int64_t> sizes = InputOf(context, i).dimensions.numbers;
    if (sizes.size() == 1 && sizes[0] >= 0 && channels >= 0 && sizes[0] != channels) return true;
  }
  return false;
}

void SetOutput(OrtShapeInferContext* context, size_t index, ONNXTensorElementDataType type,
               const Dimensions& dimensions) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorTypeAndShapeInfo* made = nullptr;
  Ort::ThrowOnError(api.CreateTensorTypeAndShapeInfo(&made));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(
      made, api.ReleaseTensorTypeAndShapeInfo);
  Ort::ThrowOnError(api.SetTensorElementType(made, type));
  std::vector<const char*> names;
  for (const std::string& name : dimensions.names) names.push_back(name.c_str());
  Ort::ThrowOnError(api.SetDimensions(made, dimensions.numbers.data(), dimensions.numbers.size()));
  Ort::ThrowOnError(api.SetSymbolicDimensions(made, names.data(), names.size()));
  Ort::ThrowOnError(api.ShapeInferContext_SetOutputTypeShape(context, index, made));
}

}  // namespace

void InferShapes(const OpSpec& spec, OrtShapeInferContext* context) {
  Known data, statistics, windows;
  size_t of_outputs = 1;  // which of the dimensions of `windows` is the number of results
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const Formal& formal = spec.inputs[i];
    const bool is_x = static_cast<int>(i) == spec.data_input();
    if (is_x) data = InputOf(context, i);
    if (formal.shape == ShapeOf::kWindows || formal.shape == ShapeOf::kOutputs || formal.shape == ShapeOf::kWeight ||
        formal.shape == ShapeOf::kExchangedWeight) {
      windows = InputOf(context, i);
      of_outputs = formal.shape == ShapeOf::kWeight ? 0 : 1;
    }
    if (formal.type != TypeOf::kStatistics || !statistics.dimensions.numbers.empty()) continue;
    statistics = InputOf(context, i);
    if (formal.shape == ShapeOf::kReplicaChannels && statistics.dimensions.numbers.size() == 2) {
      statistics.dimensions.numbers.erase(statistics.dimensions.numbers.begin());
      statistics.dimensions.names.erase(statistics.dimensions.names.begin());
    }
  }
  if (spec.has_statistics() && !spec.has_statistics_input()) {
    // Any other value is refused when the kernel of the node is made, with a better message.
    const bool is_double = IntAttribute(context, "stash_type", 1) == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    statistics.type = is_double ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  if (Contradicts(spec, context, data)) data = {data.type, {}};
  // Rank 0 means that the rank is unknown. The axis is checked when the node runs, with a better message.
  const int64_t rank = static_cast<int64_t>(data.dimensions.numbers.size());
  int64_t axis = IntAttribute(context, "axis", 1);
  if (axis < 0) axis += rank;
  if (axis >= 0 && axis < rank) {
    const size_t c = static_cast<size_t>(axis);
    statistics.dimensions = {};
    statistics.dimensions.Append(data.dimensions.numbers[c], data.dimensions.names[c].c_str());
  } else if (statistics.dimensions.numbers.size() != 1) {
    statistics.dimensions = {};
    statistics.dimensions.Append(-1, "");
  }
  Dimensions replicas;  // their number is known when the node runs
  replicas.Append(-1, "");
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    const Formal& formal = spec.outputs[i];
    const bool by_replica = formal.shape == ShapeOf::kReplicas || formal.shape == ShapeOf::kReplicaChannels;
    Dimensions dimensions = by_replica ? replicas : Dimensions{};
    if (formal.type == TypeOf::kCount) {
      SetOutput(context, i, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, dimensions);
    } else if (formal.shape == ShapeOf::kChannels || formal.shape == ShapeOf::kReplicaChannels) {
      dimensions.Append(statistics.dimensions.numbers[0], statistics.dimensions.names[0].c_str());
      SetOutput(context, i, statistics.type, dimensions);
    } else if (formal.shape == ShapeOf::kOutputs) {
      if (rank < 3) continue;
      const std::vector<int64_t> counts = CountsOf(context, data.dimensions.numbers);
      if (counts.empty()) continue;
      dimensions.Append(data.dimensions.numbers[0], data.dimensions.names[0].c_str());
      if (windows.dimensions.numbers.size() > of_outputs) {
        dimensions.Append(windows.dimensions.numbers[of_outputs], windows.dimensions.names[of_outputs].c_str());
      } else {
        dimensions.Append(-1, "");
      }
      for (const int64_t count : counts) dimensions.Append(count, "");
      SetOutput(context, i, data.type, dimensions);
    } else if (formal.shape == ShapeOf::kKernel || formal.shape == ShapeOf::kWeight) {
      const std::vector<int64_t> sizes = IntsAttribute(context, "kernel_shape");
      if (windows.dimensions.numbers.size() != sizes.size() + 2) continue;
      dimensions.Append(windows.dimensions.numbers[1], windows.dimensions.names[1].c_str());
      if (formal.shape == ShapeOf::kKernel) {
        dimensions.Append(1, "");
      } else if (rank > 1) {
        dimensions.Append(data.dimensions.numbers[1], data.dimensions.names[1].c_str());
      } else {
        dimensions.Append(-1, "");
      }
      for (const int64_t size : sizes) dimensions.Append(size, "");
      SetOutput(context, i, data.type, dimensions);
    } else if (rank > 0) {
      SetOutput(context, i, data.type, data.dimensions);
    }
  }
}

}  // namespace onnx_cbp
