// Allocates memory of a kernel's device.
#include "device_memory.h"

#include <new>

namespace onnx_cbp {
namespace {

// Returns memory to its allocator, also if an exception is thrown.
class Lease {
 public:
  Lease(OrtAllocator* allocator, void* memory) : allocator_(allocator), memory_(memory) {}
  ~Lease() { allocator_->Free(allocator_, memory_); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

 private:
  OrtAllocator* const allocator_;
  void* const memory_;
};

}  // namespace

DeviceMemory::DeviceMemory(const OrtKernelInfo* info) {
  if (ApiVersion() < kScratchBuffers) return;  // that version cannot keep memory for the streams of a kernel apart
  OrtAllocator* allocator = nullptr;
  Ort::ThrowOnError(Ort::GetApi().KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  allocator_.reset(allocator);
}

int DeviceMemory::device() const {
  if (allocator_ == nullptr) return -1;
  const OrtApi& api = Ort::GetApi();
  const OrtMemoryInfo* info = nullptr;
  Ort::ThrowOnError(api.AllocatorGetInfo(allocator_.get(), &info));
  int number = -1;
  Ort::ThrowOnError(api.MemoryInfoGetId(info, &number));
  return number;
}

void DeviceMemory::With(const Ort::KernelContext& context, void* stream, size_t bytes, const Wait& wait,
                        const Use& use) const {
  const OrtApi& api = Ort::GetApi();
  if (bytes == 0) {
    use(nullptr);
  } else if (allocator_ != nullptr && stream != nullptr) {
    const OrtMemoryInfo* info = nullptr;
    Ort::ThrowOnError(api.AllocatorGetInfo(allocator_.get(), &info));
    void* memory = nullptr;
    Ort::ThrowOnError(api.KernelContext_GetScratchBuffer(context.GetOrtKernelContext(), info, bytes, &memory));
    if (memory == nullptr) throw std::bad_alloc();
    const Lease lease(allocator_.get(), memory);
    use(memory);  // ONNX Runtime gives it to other streams only after this one
  } else {
    Allocator own;
    if (allocator_ == nullptr) own = AllocatorOf(context);
    OrtAllocator* allocator = allocator_ != nullptr ? allocator_.get() : own.get();
    void* memory = allocator->Alloc(allocator, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    const Lease lease(allocator, memory);
    use(memory);
    wait(memory);
  }
}

DeviceMemory::Allocator DeviceMemory::AllocatorOf(const Ort::KernelContext& context) {
  const OrtApi& api = Ort::GetApi();
  const OrtMemoryInfo* info = nullptr;
  Ort::ThrowOnError(api.GetTensorMemoryInfo(context.GetInput(0), &info));
  OrtAllocator* allocator = nullptr;
  Ort::ThrowOnError(api.KernelContext_GetAllocator(context.GetOrtKernelContext(), info, &allocator));
  return Allocator(allocator);
}

}  // namespace onnx_cbp
