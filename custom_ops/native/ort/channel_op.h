// An op as ONNX Runtime sees it: one object for every provider and every pair of types.
#pragma once

#include "cpu_kernel.h"
#include "cuda/cuda_kernel.h"
#include "op_spec.h"
#include "ort_api.h"
#include "shape_inference.h"

namespace onnx_cbp {

// kCudaPlugin is the CUDA provider as a plugin of ONNX Runtime: a separate library, with another name.
enum class Provider { kCpu, kCuda, kCudaPlugin };

class ChannelOp : public Ort::CustomOpBase<ChannelOp, Kernel, true> {
 public:
  ChannelOp(const OpSpec& spec, Provider provider, int data_type, int statistics_type)
      : spec_(spec), provider_(provider), data_type_(data_type), statistics_type_(statistics_type) {
    version = ApiVersion();
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      return StatusOf([&] { InferShapes(static_cast<const ChannelOp*>(op)->spec_, context); });
    };
  }

  const char* GetName() const { return spec_.name; }
  const char* GetExecutionProviderType() const {
    switch (provider_) {
      case Provider::kCuda:
        return ONNX_CBP_CUDA_PROVIDER;
      case Provider::kCudaPlugin:
        return "CudaPluginExecutionProvider";
      case Provider::kCpu:
        break;
    }
    return nullptr;
  }
  size_t GetInputTypeCount() const { return spec_.inputs.size(); }
  size_t GetOutputTypeCount() const { return spec_.outputs.size(); }
  ONNXTensorElementDataType GetInputType(size_t index) const { return TypeNumber(spec_.inputs[index]); }
  ONNXTensorElementDataType GetOutputType(size_t index) const { return TypeNumber(spec_.outputs[index]); }

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return StatusOf([&] {
      Kernel* made = nullptr;
      if (provider_ != Provider::kCpu) {
        made = new CudaKernel(spec_, data_type_, statistics_type_, info);
      } else {
        made = new CpuKernel(spec_, data_type_, statistics_type_, info);
      }
      *kernel = made;  // as the type by which it is deleted
    });
  }

 private:
  ONNXTensorElementDataType TypeNumber(const Formal& formal) const {
    return static_cast<ONNXTensorElementDataType>(OpSpec::TypeNumber(formal, data_type_, statistics_type_));
  }

  const OpSpec& spec_;
  const Provider provider_;
  const int data_type_;
  const int statistics_type_;
};

}  // namespace onnx_cbp
