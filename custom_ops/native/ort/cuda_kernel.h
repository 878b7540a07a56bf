// A node on the CUDA provider: its tensors are in the memory of a GPU, and its work is queued on ONNX Runtime's stream.
#pragma once

#include <memory>
#include <mutex>

#include "cuda_library.h"
#include "device_memory.h"
#include "kernel.h"

// A build of the tests has another (tests/cuda_adapter).
#ifndef ONNX_CBP_CUDA_PROVIDER
#define ONNX_CBP_CUDA_PROVIDER "CUDAExecutionProvider"
#endif

namespace onnx_cbp {

class CudaKernel final : public Kernel {
 public:
  // Loads libonnx_cbp_cuda.so. Throws Ort::Exception where that fails, or where the provider's GPU cannot run it.
  CudaKernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info);

 private:
  void Run(const Ort::KernelContext& context, const Shapes& shapes, const Call& call) const override;
  // Runs a collective on copies in pinned memory of the processor's; waits once, for the inputs.
  void RunStaged(void* stream, const Shapes& shapes, const Call& call) const;
  void Check(const char* error) const;
  // Fails where CUDA cannot run the kernels on the provider's GPU.
  void CheckDevice() const;

  const CudaLibrary& library_;
  const DeviceMemory memory_;
  // A collective's. One run at a time uses it, so one that comes from another thread waits.
  struct Delete {
    void (*function)(onnx_cbp_cuda_staging*);
    void operator()(onnx_cbp_cuda_staging* staging) const { function(staging); }
  };
  mutable std::mutex staging_in_use_;
  std::unique_ptr<onnx_cbp_cuda_staging, Delete> staging_;
};

}  // namespace onnx_cbp
