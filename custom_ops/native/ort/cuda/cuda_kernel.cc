// Runs a node on a GPU.
#include "cuda_kernel.h"

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "../../kernels/element_types.h"
#include "cuda_call.h"

namespace onnx_cbp {
namespace {

// Each vector begins at an address that suits doubles.
constexpr size_t kAlignment = 16;

size_t SizeOf(int type) {
  if (type == kFloat16 || type == kBFloat16) return sizeof(Float16);
  return type == kFloat ? sizeof(float) : sizeof(double);
}

size_t Padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

CudaKernel::CudaKernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info)
    : Kernel(spec, data_type, statistics_type, info), library_(CudaLibrary::Get()), memory_(info) {
  CheckDevice();
}

void CudaKernel::Run(const Ort::KernelContext& context, const Shapes& shapes, const OpCall& call) const {
  void* stream = nullptr;
  Ort::ThrowOnError(Ort::GetApi().KernelContext_GetGPUComputeStream(context.GetOrtKernelContext(), &stream));
  if (spec().run_on_cuda == nullptr) return RunStaged(stream, shapes, call);
  const Layout& layout = call.layout;
  const int64_t bytes = library_.workspace(layout.outer, layout.channels, layout.inner);
  if (bytes < 0) {
    CheckDevice();
    Fail("CUDA tells nothing of the GPU", ORT_FAIL);
  }
  const auto wait = [&](void* memory) {
    std::byte byte;
    const onnx_cbp_cuda_copy copy{&byte, memory, sizeof byte};
    Check(library_.to_host(stream, &copy, 1));
  };
  memory_.With(context, stream, static_cast<size_t>(bytes), wait,
               [&](void* workspace) { Check(spec().run_on_cuda(CudaCall(library_, {stream, workspace}, call))); });
}

void CudaKernel::RunStaged(void* stream, const Shapes& shapes, const OpCall& call) const {
  std::vector<size_t> sizes;  // of the inputs and outputs, in bytes
  size_t total = 0;
  for (const auto* formals : {&spec().inputs, &spec().outputs}) {
    for (const Formal& formal : *formals) {
      const Shape shape = shapes.of(formal.shape);
      sizes.push_back(static_cast<size_t>(shape.Product(0, shape.size())) * SizeOf(TypeNumber(formal)));
      total += Padded(sizes.back());
    }
  }
  Staging staging = TakeStaging();
  void* host = nullptr;
  Check(library_.staging_reserve(staging.get(), total, &host));
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  std::vector<onnx_cbp_cuda_copy> in, out;
  std::byte* next = static_cast<std::byte*>(host);
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (i < call.inputs.size()) {
      in.push_back({next, call.inputs[i], sizes[i]});
      inputs.push_back(next);
    } else {
      out.push_back({call.outputs[outputs.size()], next, sizes[i]});
      outputs.push_back(next);
    }
    next += Padded(sizes[i]);
  }
  Check(library_.to_host(stream, in.data(), in.size()));
  RunOnProcessor(call.With(inputs, outputs));
  Check(library_.to_device(stream, staging.get(), out.data(), out.size()));
  // For the next run. After a failure it is lost.
  const std::lock_guard<std::mutex> lock(mutex_);
  stagings_.push_back(std::move(staging));
}

CudaKernel::Staging CudaKernel::TakeStaging() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!stagings_.empty()) {
      Staging taken = std::move(stagings_.back());
      stagings_.pop_back();
      return taken;
    }
  }
  onnx_cbp_cuda_staging* made = nullptr;
  Check(library_.staging_new(&made));
  return Staging(made, Delete{library_.staging_delete});
}

void CudaKernel::CheckDevice() const {
  if (const char* why = library_.check(memory_.device())) {
    Fail(std::string("the CUDA kernels cannot run here: ") + why + "; or run the session without " +
             ONNX_CBP_CUDA_PROVIDER,
         ORT_FAIL);
  }
}

void CudaKernel::Check(const char* error) const {
  if (error != nullptr) Fail(error, ORT_FAIL);
}

}  // namespace onnx_cbp
