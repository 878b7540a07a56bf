// An op as ONNX Runtime sees it: one object for every pair of types that it serves.
#pragma once

#include "kernel.h"
#include "op_spec.h"
#include "ort_api.h"
#include "shape_inference.h"

namespace onnx_cbp {

class ChannelOp : public Ort::CustomOpBase<ChannelOp, Kernel, true> {
 public:
  ChannelOp(const OpSpec& spec, int data_type, int statistics_type)
      : spec_(spec), data_type_(data_type), statistics_type_(statistics_type) {
    version = ApiVersion();
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      return StatusOf([&] { InferShapes(static_cast<const ChannelOp*>(op)->spec_, context); });
    };
  }

  const char* GetName() const { return spec_.name; }
  size_t GetInputTypeCount() const { return spec_.inputs.size(); }
  size_t GetOutputTypeCount() const { return spec_.outputs.size(); }
  ONNXTensorElementDataType GetInputType(size_t index) const { return TypeNumber(spec_.inputs[index]); }
  ONNXTensorElementDataType GetOutputType(size_t index) const { return TypeNumber(spec_.outputs[index]); }

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return StatusOf([&] { *kernel = new Kernel(spec_, data_type_, statistics_type_, info); });
  }

 private:
  ONNXTensorElementDataType TypeNumber(const Formal& formal) const {
    const int number = formal.type == TypeOf::kData         ? data_type_
                       : formal.type == TypeOf::kStatistics ? statistics_type_
                                                            : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    return static_cast<ONNXTensorElementDataType>(number);
  }

  const OpSpec& spec_;
  const int data_type_;
  const int statistics_type_;
};

}  // namespace onnx_cbp
