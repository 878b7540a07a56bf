// One node of a session: its attributes, the check of its inputs, and the call of its kernel.
#pragma once

#include <memory>
#include <string>

#include "op_spec.h"
#include "ort_api.h"

namespace onnx_cbp {

class Kernel {
 public:
  // Throws InvalidArgument where an attribute does not fit.
  Kernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info);

  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 private:
  struct Shapes;

  void ReadAttribute(const OrtKernelInfo* info, const std::string& name);
  void Compute(Ort::KernelContext& context) const;
  Shapes CheckInputs(const Ort::KernelContext& context) const;
  [[noreturn]] void Fail(const std::string& what, OrtErrorCode code = ORT_INVALID_ARGUMENT) const;

  const OpSpec& spec_;
  const int data_type_;
  const int statistics_type_;
  std::string node_;
  Attributes attributes_;
  std::unique_ptr<const Collective> collective_;
};

// Turns whatever a callable throws into a status, so that no exception crosses the C interface.
template <typename F>
OrtStatusPtr StatusOf(F&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  } catch (...) {
    return Ort::GetApi().CreateStatus(ORT_RUNTIME_EXCEPTION, "onnx_cbp: unexpected error");
  }
}

}  // namespace onnx_cbp
