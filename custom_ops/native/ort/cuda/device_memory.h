// Memory of a kernel's device, from ONNX Runtime's allocator, during one call.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "../ort_api.h"

namespace onnx_cbp {

class DeviceMemory {
 public:
  using Use = std::function<void(void* memory)>;
  // Waits until the stream has finished all work that was queued with this memory.
  using Wait = std::function<void(void* memory)>;

  // Memory of the device that a kernel runs on.
  explicit DeviceMemory(const OrtKernelInfo* info);

  // The number of the device; -1 if ONNX Runtime does not tell it (before 1.18).
  int device() const;

  // Calls use(memory) with `bytes` bytes of device memory (null for 0), to queue work on this stream of the kernel's
  // run. Calls `wait` if ONNX Runtime could give the memory to another stream too early: before 1.18, or without a
  // stream. Throws what `use` throws, std::bad_alloc, and Ort::Exception.
  void With(const Ort::KernelContext& context, void* stream, size_t bytes, const Wait& wait, const Use& use) const;

 private:
  struct Release {
    void operator()(OrtAllocator* allocator) const { Ort::GetApi().ReleaseAllocator(allocator); }
  };
  using Allocator = std::unique_ptr<OrtAllocator, Release>;

  // The allocator of the first input's device.
  static Allocator AllocatorOf(const Ort::KernelContext& context);

  Allocator allocator_;  // null before version 18 of the interface
};

}  // namespace onnx_cbp
