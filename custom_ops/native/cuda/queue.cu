#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "queue.h"

namespace onnx_cbp::cuda {

const char* Complain(const char* function, const char* reason) {
  static thread_local char line[512];
  std::snprintf(line, sizeof line, "%s: %s", function, reason);
  return line;
}

#if defined(__CUDACC__)

const char* CurrentDevice(Device* device) {
  constexpr int kDevices = 64;  // of which the answers are kept
  // Multiprocessors above, bytes of shared memory below; 0: not asked yet.
  static std::atomic<uint64_t> known[kDevices];
  int number = 0;
  cudaError_t error = cudaGetDevice(&number);
  uint64_t both = error == cudaSuccess && number < kDevices ? known[number].load(std::memory_order_relaxed) : 0;
  if (error == cudaSuccess && both == 0) {
    int multiprocessors = 0, shared = 0;
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, number);
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
    }
    both = static_cast<uint64_t>(multiprocessors) << 32 | static_cast<uint32_t>(shared);
    if (error == cudaSuccess && number < kDevices) known[number].store(both, std::memory_order_relaxed);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(error);
  }
  *device = {static_cast<int>(both >> 32), static_cast<int64_t>(both & 0xffffffffu)};
  return nullptr;
}

#else

const HostDeviceTraits& HostDevice() {
  static const HostDeviceTraits traits = [] {
    HostDeviceTraits read;
    if (const char* given = std::getenv("ONNX_CBP_CUDA_HOST_DEVICE")) {
      long shared = 0, grid = 0;
      int backwards = 0;
      if (std::sscanf(given, "%d,%ld,%d,%ld", &read.multiprocessors, &shared, &backwards, &grid) != 4 ||
          read.multiprocessors < 1 || shared < 0 || grid < 1) {
        std::fprintf(stderr,
                     "ONNX_CBP_CUDA_HOST_DEVICE is '%s': write MULTIPROCESSORS,SHARED,BACKWARDS,GRID, for example "
                     "132,232448,0,2147483647\n",
                     given);
        std::abort();
      }
      read.shared = shared;
      read.backwards = backwards != 0;
      read.grid = grid;
    }
    return read;
  }();
  return traits;
}

const char* CurrentDevice(Device* device) {
  *device = {HostDevice().multiprocessors, HostDevice().shared};
  return nullptr;
}

#endif

Queue::Queue(const char* function, const onnx_cbp_cuda_queue& queue) : function_(function), queue_(queue) {
  if (const char* reason = CurrentDevice(&device_)) Fail(reason);
}

}  // namespace onnx_cbp::cuda
