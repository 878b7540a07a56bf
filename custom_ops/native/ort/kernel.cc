// Reads the attributes of a node, checks its inputs, and makes the call.
#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <variant>
#include <vector>

#include "../kernels/convolutions/window_attributes.h"
#include "../kernels/element_types.h"

namespace onnx_cbp {
namespace {

OrtStatusPtr Get(const OrtKernelInfo* info, const char* name, int64_t* value) {
  return Ort::GetApi().KernelInfoGetAttribute_int64(info, name, value);
}

OrtStatusPtr Get(const OrtKernelInfo* info, const char* name, float* value) {
  return Ort::GetApi().KernelInfoGetAttribute_float(info, name, value);
}

OrtStatusPtr Get(const OrtKernelInfo* info, const char* name, std::string* value) {
  const OrtApi& api = Ort::GetApi();
  size_t size = 0;
  if (OrtStatusPtr status = api.KernelInfoGetAttribute_string(info, name, nullptr, &size)) return status;
  std::string text(size, '\0');
  if (OrtStatusPtr status = api.KernelInfoGetAttribute_string(info, name, text.data(), &size)) return status;
  *value = text.c_str();  // without the terminating zero
  return nullptr;
}

OrtStatusPtr Get(const OrtKernelInfo* info, const char* name, std::vector<int64_t>* value) {
  const OrtApi& api = Ort::GetApi();
  size_t size = 0;
  if (OrtStatusPtr status = api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) return status;
  std::vector<int64_t> list(size);
  if (size > 0) {
    if (OrtStatusPtr status = api.KernelInfoGetAttributeArray_int64(info, name, list.data(), &size)) return status;
  }
  *value = list;
  return nullptr;
}

struct AttributeField {
  const char* name;
  std::variant<int64_t Attributes::*, float Attributes::*, std::string Attributes::*,
               std::vector<int64_t> Attributes::*>
      field;
};

// Which field keeps each attribute.
const AttributeField kAttributeFields[] = {
    {"axis", &Attributes::axis},
    {"stash_type", &Attributes::stash_type},
    {"epsilon", &Attributes::epsilon},
    {"momentum", &Attributes::momentum},
    {"unbiased", &Attributes::unbiased},
    {"relu", &Attributes::relu},
    {"group", &Attributes::group},
    {"layer", &Attributes::layer},
    {"reduction", &Attributes::reduction},
    {"strides", &Attributes::strides},
    {"pads", &Attributes::pads},
    {"dilations", &Attributes::dilations},
    {"kernel_shape", &Attributes::kernel_shape},
};

// Whether an attribute exists, with any type: ONNX Runtime answers with the same status if it is absent and if it has
// another type than was asked for.
bool IsThere(const OrtKernelInfo* info, const char* name) {
  const OrtApi& api = Ort::GetApi();
  const auto read = [](OrtStatusPtr status) { return Ort::Status{status}.IsOK(); };
  int64_t integer = 0;
  float number = 0.0f;
  std::string text;
  size_t size = 0;
  if (read(Get(info, name, &integer)) || read(Get(info, name, &number)) || read(Get(info, name, &text)) ||
      read(api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
      read(api.KernelInfoGetAttributeArray_float(info, name, nullptr, &size))) {
    return true;
  }
  Ort::AllocatorWithDefaultOptions allocator;
  OrtValue* tensor = nullptr;
  if (!read(api.KernelInfoGetAttribute_tensor(info, name, allocator, &tensor))) return false;
  api.ReleaseValue(tensor);
  return true;
}

const char* TypeName(const int64_t&) { return "an int"; }
const char* TypeName(const float&) { return "a float"; }
const char* TypeName(const std::string&) { return "a string"; }
const char* TypeName(const std::vector<int64_t>&) { return "a list of ints"; }

std::string TextOf(const std::vector<int64_t>& list) {
  std::string text = "[";
  for (size_t i = 0; i < list.size(); ++i) text += (i ? "," : "") + std::to_string(list[i]);
  return text + "]";
}

// A shape with two sizes, and then one for each axis of space of a tensor of this rank.
Shape OfWindows(const Shape& first, size_t rank, const WindowAxis* axes, int64_t WindowAxis::* size) {
  Shape shape = first;
  for (size_t i = Windows::kAxes + 2 - rank; i < Windows::kAxes; ++i) shape.Append(axes[i].*size);
  return shape;
}

}  // namespace

Shape Kernel::Shapes::of(ShapeOf kind) const {
  switch (kind) {
    case ShapeOf::kData:
      return data;
    case ShapeOf::kChannels:
      return {layout.channels};
    case ShapeOf::kReplicas:
      return {replicas};
    case ShapeOf::kReplicaChannels:
      return {replicas, layout.channels};
    case ShapeOf::kWindows:
      return OfWindows({windows.batch, windows.results()}, data.size(), windows.axes, &WindowAxis::count);
    case ShapeOf::kKernel:
      return OfWindows({windows.results(), 1}, data.size(), windows.axes, &WindowAxis::kernel);
    case ShapeOf::kOutputs:
      return OfWindows({windows.batch, windows.outputs}, data.size(), windows.axes, &WindowAxis::count);
    case ShapeOf::kWeight:
      return OfWindows({windows.outputs, windows.channels}, data.size(), windows.axes, &WindowAxis::kernel);
    case ShapeOf::kExchangedWeight:
      return OfWindows({windows.channels, windows.outputs}, data.size(), windows.axes, &WindowAxis::kernel);
    case ShapeOf::kScalar:
      break;
  }
  return {};
}

Kernel::Kernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info)
    : spec_(spec), data_type_(data_type), statistics_type_(statistics_type) {
  const OrtApi& api = Ort::GetApi();
  size_t length = 0;
  Ort::ThrowOnError(api.KernelInfo_GetNodeName(info, nullptr, &length));
  node_.resize(length);
  Ort::ThrowOnError(api.KernelInfo_GetNodeName(info, node_.data(), &length));
  if (!node_.empty()) node_.pop_back();  // the terminating zero

  for (const char* name : spec_.attributes) ReadAttribute(info, name);
  if (attributes_.stash_type != 1 && attributes_.stash_type != 11) {
    Fail("attribute 'stash_type' is " + std::to_string(attributes_.stash_type) + "; use 1 (float) or 11 (double)");
  }
  if (spec_.has_statistics() && !spec_.has_statistics_input() && attributes_.stash_type != statistics_type_) {
    // Before 1.19, ONNX Runtime takes the output types from the first overload that accepts the inputs, and ignores the
    // attribute.
    Fail("attribute 'stash_type' is " + std::to_string(attributes_.stash_type) +
         " but this ONNX Runtime makes the outputs " + (statistics_type_ == kDouble ? "double" : "float") +
         ": use ONNX Runtime 1.19 or newer");
  }
  if (!(attributes_.epsilon >= 0.0f && std::isfinite(attributes_.epsilon))) {
    Fail("attribute 'epsilon' is " + std::to_string(attributes_.epsilon) + "; it must be finite, 0 or more");
  }
  if (attributes_.reduction != "sum" && attributes_.reduction != "mean") {
    Fail("attribute 'reduction' is '" + attributes_.reduction + "'; use 'sum' or 'mean'");
  }
  if (spec_.is_collective) {
    const std::string& layer = attributes_.layer.empty() ? node_ : attributes_.layer;
    collective_ = std::make_unique<Collective>(spec_.name, layer, attributes_.group, Collective::NewNode());
  }
}

void Kernel::ReadAttribute(const OrtKernelInfo* info, const std::string& name) {
  for (const AttributeField& known : kAttributeFields) {
    if (name != known.name) continue;
    std::visit(
        [&](auto field) {
          auto& value = attributes_.*field;
          const Ort::Status status{Get(info, known.name, &value)};
          if (!status.IsOK() && IsThere(info, known.name)) {
            Fail("attribute '" + name + "' has the wrong type: it is " + TypeName(value));
          }
        },
        known.field);
  }
}

void Kernel::Fail(const std::string& what, OrtErrorCode code) const {
  const std::string node = node_.empty() ? "" : " (node '" + node_ + "')";
  throw Ort::Exception("onnx_cbp." + std::string(spec_.name) + node + ": " + what, code);
}

OrtStatusPtr Kernel::ComputeV2(OrtKernelContext* context) noexcept {
  return StatusOf([&] {
    Ort::KernelContext wrapped(context);
    try {
      Compute(wrapped);
    } catch (const std::bad_alloc&) {
      Fail("out of memory");
    } catch (const CollectiveError& error) {
      Fail(error.what(), ORT_FAIL);
    }
  });
}

void Kernel::Compute(Ort::KernelContext& context) const {
  const Shapes shapes = CheckInputs(context);
  std::vector<const void*> inputs;
  inputs.reserve(spec_.inputs.size());
  for (size_t i = 0; i < spec_.inputs.size(); ++i) inputs.push_back(context.GetInput(i).GetTensorRawData());
  std::vector<void*> outputs;
  outputs.reserve(spec_.outputs.size());
  for (size_t i = 0; i < spec_.outputs.size(); ++i) {
    const Shape shape = shapes.of(spec_.outputs[i].shape);
    outputs.push_back(context.GetOutput(i, shape.data(), shape.size()).GetTensorMutableRawData());
  }
  const SerialExecutor executor;
  Run(context, shapes,
      {data_type_, statistics_type_, shapes.layout, shapes.replicas, attributes_, inputs, outputs, executor,
       collective_.get(), spec_.has_windows() ? &shapes.windows : nullptr});
}

void Kernel::RunOnProcessor(const OpCall& call) const {
  for (size_t i = 0; i < spec_.inputs.size(); ++i) {
    if (spec_.inputs[i].type != TypeOf::kCount) continue;
    const int64_t* counts = call.input<int64_t>(i);
    const int64_t size = spec_.inputs[i].shape == ShapeOf::kReplicas ? call.replicas : 1;
    for (int64_t r = 0; r < size; ++r) {
      if (counts[r] < 0) Fail("input 'count' is " + std::to_string(counts[r]) + "; it must be 0 or more");
    }
  }
  if (!spec_.run(call)) Fail("no kernel for these types");
}

Windows Kernel::WindowsOf(const std::vector<Shape>& actual) const {
  const Shape& data = actual[static_cast<size_t>(spec_.data_input())];
  if (data.size() < 3 || data.size() > 2 + Windows::kAxes) {
    Fail("input 'X' has shape " + data.ToString() + "; it needs a batch, channels, and one to three axes of space");
  }
  const size_t axes = data.size() - 2;
  const Attributes& a = attributes_;
  const auto check = [&](const char* name, const std::vector<int64_t>& list, size_t length, int64_t least) {
    const bool fits = list.size() == length && *std::min_element(list.begin(), list.end()) >= least;
    if (!fits && (!list.empty() || &list == &a.kernel_shape)) {
      Fail("attribute '" + std::string(name) + "' is " + TextOf(list) + "; X of shape " + data.ToString() + " needs " +
           std::to_string(length) + " numbers, " + std::to_string(least) + " or more");
    }
  };
  check("kernel_shape", a.kernel_shape, axes, 1);
  check("strides", a.strides, axes, 1);
  check("pads", a.pads, 2 * axes, 0);
  check("dilations", a.dilations, axes, 1);
  const auto list = [](const std::vector<int64_t>& numbers) { return numbers.empty() ? nullptr : numbers.data(); };
  Windows windows;
  windows.batch = data[0];
  windows.channels = data[1];
  windows.dense = spec_.is_dense();
  for (size_t i = 0; i < spec_.inputs.size(); ++i) {  // the number of results follows from the other tensor
    const ShapeOf kind = spec_.inputs[i].shape;
    if (kind == ShapeOf::kData || actual[i].size() != data.size()) continue;
    if (windows.dense) {
      windows.outputs = actual[i][kind == ShapeOf::kWeight ? 0 : 1];
    } else if (data[1] > 0) {
      windows.multiplier = std::max<int64_t>(1, actual[i][1] / data[1]);
    }
  }
  const char* reason = SetWindows(static_cast<int64_t>(axes), data.data() + 2,
                                  {list(a.kernel_shape), list(a.strides), list(a.pads), list(a.dilations)}, &windows);
  if (reason != nullptr) {
    Fail("attribute 'kernel_shape' is " + TextOf(a.kernel_shape) + ", for X of shape " + data.ToString() + ": " +
         reason + "; use a smaller one");
  }
  return windows;
}

std::vector<Shape> Kernel::InputShapes(const Ort::KernelContext& context) const {
  std::vector<Shape> actual;
  actual.reserve(spec_.inputs.size());
  for (size_t i = 0; i < spec_.inputs.size(); ++i) {
    actual.push_back(Shape::Of(context.GetInput(i)));
    if (actual[i].size() > Shape::kMaxRank) {
      Fail("input '" + std::string(spec_.inputs[i].name) + "' has rank " + std::to_string(actual[i].size()) +
           "; the most is " + std::to_string(Shape::kMaxRank) + ": join dimensions");
    }
  }
  return actual;
}

Kernel::Shapes Kernel::ShapesOfVectors(const Shape& first) const {
  const bool replicas = spec_.inputs[0].shape == ShapeOf::kReplicaChannels;
  const bool gathers = spec_.outputs[0].shape == ShapeOf::kReplicaChannels;
  if (first.size() != (replicas ? 2 : 1)) {
    Fail("input '" + std::string(spec_.inputs[0].name) + "' has shape " + first.ToString() + ", expected " +
         (replicas ? "[R,C]" : "[C]") + " (R replicas, C channels)");
  }
  const int64_t count = replicas ? first.front() : gathers ? collective_->Replicas() : 0;
  return {{}, Layout(1, first.back(), 1), count, {}};
}

Kernel::Shapes Kernel::ShapesOfTensor(const std::vector<Shape>& actual) const {
  const Shape& data = actual[static_cast<size_t>(spec_.data_input())];
  const int64_t rank = static_cast<int64_t>(data.size());
  if (rank < 2) {
    Fail("input 'X' has shape " + data.ToString() + "; it needs a batch and a channel axis, rank 2 or more");
  }
  const Windows windows = spec_.has_windows() ? WindowsOf(actual) : Windows{};
  if (attributes_.axis < -rank || attributes_.axis >= rank) {
    Fail("attribute 'axis' is " + std::to_string(attributes_.axis) + ", out of range for X of shape " +
         data.ToString() + "; use " + std::to_string(-rank) + " to " + std::to_string(rank - 1));
  }
  const size_t axis = static_cast<size_t>(attributes_.axis < 0 ? attributes_.axis + rank : attributes_.axis);
  return {data, Layout(data.Product(0, axis), data[axis], data.Product(axis + 1, data.size())), 0, windows};
}

std::string Kernel::MeaningOf(ShapeOf kind, const Shape& data) const {
  const std::string of_x =
      spec_.data_input() < 0 ? "" : " (axis " + std::to_string(attributes_.axis) + " of X " + data.ToString() + ")";
  switch (kind) {
    case ShapeOf::kData:
      return ", the shape of X";
    case ShapeOf::kChannels:
      return ", one value a channel" + of_x;
    case ShapeOf::kScalar:
      return ", a scalar";
    case ShapeOf::kWindows:
      return ", one place a window on X, and its channels or a multiple";
    case ShapeOf::kOutputs:
      return ", one place a window on X, for every output";
    case ShapeOf::kWeight:
      return ", outputs, channels of X and kernel_shape";
    case ShapeOf::kExchangedWeight:
      return ", channels of X, outputs and kernel_shape";
    case ShapeOf::kReplicas:
    case ShapeOf::kReplicaChannels:
      return " (R replicas, C channels)";
    case ShapeOf::kKernel:
      break;  // only outputs have it
  }
  return "";
}

Kernel::Shapes Kernel::CheckInputs(const Ort::KernelContext& context) const {
  const std::vector<Shape> actual = InputShapes(context);
  const Shapes shapes = spec_.data_input() < 0 ? ShapesOfVectors(actual[0]) : ShapesOfTensor(actual);
  for (size_t i = 0; i < spec_.inputs.size(); ++i) {
    const Formal& formal = spec_.inputs[i];
    if (actual[i] == shapes.of(formal.shape)) continue;
    Fail("input '" + std::string(formal.name) + "' has shape " + actual[i].ToString() + ", expected " +
         shapes.of(formal.shape).ToString() + MeaningOf(formal.shape, shapes.data));
  }
  return shapes;
}

}  // namespace onnx_cbp
