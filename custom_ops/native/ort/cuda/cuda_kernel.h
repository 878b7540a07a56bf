// A node on the CUDA provider: its tensors are in GPU memory, and its work is queued on ONNX Runtime's stream.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../kernel.h"
#include "cuda_library.h"
#include "device_memory.h"

// A build for tests defines another provider (tests/cuda_adapter).
#ifndef ONNX_CBP_CUDA_PROVIDER
#define ONNX_CBP_CUDA_PROVIDER "CUDAExecutionProvider"
#endif

namespace onnx_cbp {

class CudaKernel final : public Kernel {
 public:
  // Loads libonnx_cbp_cuda.so. Throws Ort::Exception if this fails, or if the provider's GPU cannot run it.
  CudaKernel(const OpSpec& spec, int data_type, int statistics_type, const OrtKernelInfo* info);

 private:
  void Run(const Ort::KernelContext& context, const Shapes& shapes, const OpCall& call) const override;
  // Runs a collective on copies in pinned memory of the processor. Waits once, for the inputs.
  void RunStaged(void* stream, const Shapes& shapes, const OpCall& call) const;
  void Check(const char* error) const;
  // Fails if CUDA cannot run the kernels on the provider's GPU.
  void CheckDevice() const;

  const CudaLibrary& library_;
  const DeviceMemory memory_;
  // Staging memory of collectives that no run uses now. Replicas that are threads of one session are in the same node
  // at the same time, and wait for each other there, so each needs its own.
  struct Delete {
    void (*function)(onnx_cbp_cuda_staging*);
    void operator()(onnx_cbp_cuda_staging* staging) const { function(staging); }
  };
  using Staging = std::unique_ptr<onnx_cbp_cuda_staging, Delete>;
  Staging TakeStaging() const;
  mutable std::mutex mutex_;
  mutable std::vector<Staging> stagings_;
};

}  // namespace onnx_cbp
