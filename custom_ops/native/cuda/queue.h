// Queues kernels on a stream, for the plain C functions.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "c_api.h"
#include "threads/block.h"
#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#else
#include <vector>
#endif

namespace onnx_cbp::cuda {

// The traits of a device on which the size of a launch depends.
struct Device {
  int multiprocessors;
  int64_t shared;    // bytes of dynamic shared memory that two blocks on a multiprocessor may have each
  bool slow_double;  // arithmetic in double has a 32nd or 64th of the speed of float
};

// Gets the current device; CUDA is asked once for each device. Returns null, or CUDA's message.
const char* CurrentDevice(Device* device);

// Null if a device (-1: the current one) can run the kernels. Otherwise one line, with CUDA's message and what to do
// about it, readable until the thread's next call.
const char* WhyUnusable(int device);

// Makes one line for the caller, readable until the thread's next call.
const char* Complain(const char* function, const char* reason);

// The most blocks of a launch; more blocks are queued in several launches.
constexpr int64_t kMostBlocks = 0x7fffffff;

#if defined(__CUDACC__)
// The blocks of one launch; their numbers begin with `first`.
template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksResident)
    RunKernel(const Kernel kernel, int64_t first) {
  extern __shared__ __align__(16) unsigned char shared[];
  Block<Kernel::kThreads> block(first, shared);
  kernel(block);
}
#endif

// The kernels of one call. After a failure, no more are queued.
class Queue {
 public:
  Queue(const char* function, const onnx_cbp_cuda_queue& queue);

  const Device& device() const { return device_; }
  unsigned char* workspace() const { return static_cast<unsigned char*>(queue_.workspace); }

  // The result of the plain C function.
  const char* result() const { return failure_; }
  void Fail(const char* reason) {
    if (failure_ == nullptr) failure_ = Complain(function_, reason);
  }

  // Queues kernel(block) for this many blocks, with this many bytes of shared memory each.
  template <typename Kernel>
  void Launch(const Kernel& kernel, int64_t blocks, size_t shared = 0) {
#if defined(__CUDACC__)
    constexpr size_t kWithoutAsking = 48 * 1024;
    static std::atomic<uint64_t> allowed{0};  // the devices on which this kernel may have the most
    if (failure_ == nullptr && shared > kWithoutAsking) {
      AllowMostShared(reinterpret_cast<const void*>(&RunKernel<Kernel>), &allowed);
    }
    for (int64_t first = 0; first < blocks && failure_ == nullptr; first += kMostBlocks) {
      const unsigned int count = static_cast<unsigned int>(blocks - first < kMostBlocks ? blocks - first : kMostBlocks);
      void* arguments[] = {const_cast<Kernel*>(&kernel), &first};
      Check(cudaLaunchKernel(reinterpret_cast<const void*>(&RunKernel<Kernel>), dim3(count), dim3(Kernel::kThreads),
                             arguments, shared, static_cast<cudaStream_t>(queue_.stream)));
    }
#else
    for (int64_t first = 0; first < blocks && failure_ == nullptr; first += HostDevice().grid) {
      for (int64_t index = first; index < blocks && index - first < HostDevice().grid; ++index) {
        std::vector<unsigned char> arena(shared, 0xff);  // memory that a kernel reads before it writes is NaN
        Block<Kernel::kThreads> block(index, arena.data());
        kernel(block);
      }
    }
#endif
  }

#if defined(__CUDACC__)
  void Check(cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // reported here; CUDA must not report it to the next caller
    Fail(cudaGetErrorString(error));
  }
#endif

 private:
#if defined(__CUDACC__)
  // Allows a kernel as much dynamic shared memory as the current device has. The limit belongs to the kernel, not to a
  // launch: if each of two threads set what it needs, they would overwrite each other's limit. `devices` has a bit for
  // each device for which this is done.
  void AllowMostShared(const void* kernel, std::atomic<uint64_t>* devices);
#endif

  const char* function_;
  onnx_cbp_cuda_queue queue_;
  Device device_{};
  const char* failure_ = nullptr;
};

}  // namespace onnx_cbp::cuda
