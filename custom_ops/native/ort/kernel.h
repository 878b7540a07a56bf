// One node of a session: its attributes, and the checks of its inputs. The kernel of a provider makes the call.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "op_spec.h"
#include "ort_api.h"
#include "shape.h"

namespace onnx_cbp {

class Kernel {
 public:
  // Throws InvalidArgument if an attribute does not fit.
  Kernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info);
  virtual ~Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 protected:
  // The sizes of a call, from which the shapes of the tensors follow.
  struct Shapes {
    Shape data;
    Layout layout;
    int64_t replicas = 0;
    Windows windows{};  // if the op has any

    Shape of(ShapeOf kind) const;
  };

  // Makes the call. The executor of `call` runs only on the caller's thread.
  virtual void Run(const Ort::KernelContext& context, const Shapes& shapes, const OpCall& call) const = 0;

  const OpSpec& spec() const { return spec_; }
  int TypeNumber(const Formal& formal) const { return spec_.TypeNumber(formal, data_type_, statistics_type_); }
  [[noreturn]] void Fail(const std::string& what, OrtErrorCode code = ORT_INVALID_ARGUMENT) const;
  // Runs the op on the processor, in whose memory the tensors must be. Fails if a count is negative.
  void RunOnProcessor(const OpCall& call) const;

 private:
  void ReadAttribute(const OrtKernelInfo* info, const std::string& name);
  void Compute(Ort::KernelContext& context) const;
  // The windows for inputs with these shapes.
  Windows WindowsOf(const std::vector<Shape>& actual) const;
  // The shapes of the inputs. Fails if one has more axes than a Shape can hold.
  std::vector<Shape> InputShapes(const Ort::KernelContext& context) const;
  // The sizes of a call of an op that has only vectors. `first` is its first input's shape, from which they follow.
  Shapes ShapesOfVectors(const Shape& first) const;
  // The sizes of a call of an op that has a tensor X.
  Shapes ShapesOfTensor(const std::vector<Shape>& actual) const;
  // What an input of a call with this X is, for a message: it follows the shape that was expected.
  std::string MeaningOf(ShapeOf kind, const Shape& data) const;
  // The sizes of the call, to which the shapes of all inputs fit.
  Shapes CheckInputs(const Ort::KernelContext& context) const;

  const OpSpec& spec_;
  const int data_type_;
  const int statistics_type_;
  std::string node_;
  Attributes attributes_;
  std::unique_ptr<const Collective> collective_;
};

// Turns every exception of a callable into a status, so that none crosses the C interface.
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
