// Launches kernels, and knows devices; compiled for the host, it runs them there.
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

namespace {

constexpr int kDevices = 64;  // answers are kept for this many devices; others are asked each time
// A kernel's static shared memory, where Block::Reduce keeps a value per warp.
constexpr int64_t kStaticShared = 512;

// Returns the error and clears it in CUDA: our caller reports it, and CUDA's next caller must not see it.
cudaError_t Told(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

cudaError_t Attribute(int64_t* value, cudaDeviceAttr attribute, int device) {
  int answer = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&answer, attribute, device);
  *value = answer;
  return error;
}

cudaError_t AskCuda(int number, Device* device) {
  int64_t multiprocessors = 0, most = 0, of_multiprocessor = 0, reserved = 0, ratio = 0;
  cudaError_t error = Attribute(&multiprocessors, cudaDevAttrMultiProcessorCount, number);
  if (error == cudaSuccess) error = Attribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
  if (error == cudaSuccess) {
    error = Attribute(&of_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, number);
  }
  if (error == cudaSuccess) error = Attribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, number);
  if (error == cudaSuccess) error = Attribute(&ratio, cudaDevAttrSingleToDoublePrecisionPerfRatio, number);
  const int64_t half = of_multiprocessor / 2 - reserved;
  const bool slow_double = ratio > 4;  // the ratio is 2 on some GPUs, 32 or 64 on the others
  *device = {static_cast<int>(multiprocessors), (most < half ? most : half) - kStaticShared, slow_double};
  return error;
}

}  // namespace

const char* CurrentDevice(Device* device) {
  // All in one word, so that it is read and written at once: multiprocessors in the upper half, then bytes of shared
  // memory, and slow_double in the last bit. 0 means not asked yet.
  static std::atomic<uint64_t> answers[kDevices];
  int number = 0;
  cudaError_t error = cudaGetDevice(&number);
  const uint64_t known =
      error == cudaSuccess && number < kDevices ? answers[number].load(std::memory_order_relaxed) : 0;
  if (known != 0) {
    *device = {static_cast<int>(known >> 32), static_cast<int64_t>(known >> 1 & 0x7fffffffu), (known & 1) != 0};
    return nullptr;
  }
  if (error == cudaSuccess) error = AskCuda(number, device);
  if (error != cudaSuccess) return cudaGetErrorString(Told(error));
  if (number < kDevices) {
    const uint64_t answer = static_cast<uint64_t>(device->multiprocessors) << 32 |
                            static_cast<uint32_t>(device->shared) << 1 | (device->slow_double ? 1 : 0);
    answers[number].store(answer, std::memory_order_relaxed);
  }
  return nullptr;
}

namespace {

// A kernel that does nothing. If a GPU can run it, it can run the others too: all are compiled for the same GPUs.
struct Nothing {
  static constexpr int kThreads = kWarp;
  static constexpr int kBlocksResident = 1;
  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block&) const {}
};

// Makes a device the thread's current one during the lifetime of this object; -1 changes nothing.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && device >= 0 && device != before_) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

// What is wrong with the driver, with version numbers; empty if CUDA cannot say.
void TellDriver(char* text, size_t capacity) {
  int driver = 0, runtime = 0;
  *text = '\0';
  if (Told(cudaDriverGetVersion(&driver)) != cudaSuccess || Told(cudaRuntimeGetVersion(&runtime)) != cudaSuccess)
    return;
  const int needed = runtime / 1000, of_runtime = runtime % 1000 / 10;
  if (driver == 0) {
    std::snprintf(text, capacity, ": there is no NVIDIA driver; this build needs one for CUDA %d.%d", needed,
                  of_runtime);
  } else {
    std::snprintf(
        text, capacity,
        ": the NVIDIA driver is one for CUDA %d.%d, and this build has CUDA %d.%d: install a newer driver, or "
        "build onnx-cbp with CUDA %d",
        driver / 1000, driver % 1000 / 10, needed, of_runtime, driver / 1000);
  }
}

// The message that this build has no code for the current device.
const char* WhyNoCode(cudaError_t error, char* line, size_t capacity) {
  int number = 0;
  cudaDeviceProp properties{};
  if (Told(cudaGetDevice(&number)) != cudaSuccess ||
      Told(cudaGetDeviceProperties(&properties, number)) != cudaSuccess) {
    return cudaGetErrorString(error);
  }
  std::snprintf(line, capacity,
                "%s: GPU %d is '%s' of compute capability %d.%d, and this build has code for " ONNX_CBP_CUDA_CODE
                ": build onnx-cbp with CUDAARCHS=%d%d in the environment",
                cudaGetErrorString(error), number, properties.name, properties.major, properties.minor,
                properties.major, properties.minor);
  return line;
}

}  // namespace

const char* WhyUnusable(int device) {
  static thread_local char line[512];
  const OnDevice current(device);
  if (current.error() == cudaSuccess) {
    cudaFuncAttributes of_code{};
    const cudaError_t error = Told(cudaFuncGetAttributes(&of_code, reinterpret_cast<const void*>(&RunKernel<Nothing>)));
    if (error == cudaSuccess) return nullptr;
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
        error == cudaErrorUnsupportedPtxVersion) {
      return WhyNoCode(error, line, sizeof line);
    }
    return cudaGetErrorString(error);
  }
  cudaGetLastError();
  char driver[256] = "";
  if (current.error() == cudaErrorInsufficientDriver) TellDriver(driver, sizeof driver);
  std::snprintf(line, sizeof line, "%s%s", cudaGetErrorString(current.error()), driver);
  return line;
}

void Queue::AllowMostShared(const void* kernel, std::atomic<uint64_t>* devices) {
  int number = 0;
  int64_t most = 0;
  Check(cudaGetDevice(&number));
  const uint64_t bit = failure_ == nullptr && number < kDevices ? uint64_t{1} << number : 0;
  if (failure_ != nullptr || (devices->load(std::memory_order_acquire) & bit) != 0) return;
  cudaFuncAttributes of_kernel{};
  Check(Attribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, number));
  Check(cudaFuncGetAttributes(&of_kernel, kernel));
  if (failure_ != nullptr) return;
  const int dynamic = static_cast<int>(most - static_cast<int64_t>(of_kernel.sharedSizeBytes));
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
  if (failure_ == nullptr) devices->fetch_or(bit, std::memory_order_release);
}

#else

const HostDeviceTraits& HostDevice() {
  static const HostDeviceTraits traits = [] {
    HostDeviceTraits read;
    if (const char* given = std::getenv("ONNX_CBP_CUDA_HOST_DEVICE")) {
      long shared = 0, grid = 0;
      int backwards = 0, slow_double = 0;
      if (std::sscanf(given, "%d,%ld,%d,%ld,%d", &read.multiprocessors, &shared, &backwards, &grid, &slow_double) !=
              5 ||
          read.multiprocessors < 1 || shared < 0 || grid < 1) {
        std::fprintf(stderr,
                     "ONNX_CBP_CUDA_HOST_DEVICE is '%s': write MULTIPROCESSORS,SHARED,BACKWARDS,GRID,SLOW_DOUBLE, for "
                     "example 132,115200,0,2147483647,0\n",
                     given);
        std::abort();
      }
      read.shared = shared;
      read.backwards = backwards != 0;
      read.grid = grid;
      read.slow_double = slow_double != 0;
    }
    return read;
  }();
  return traits;
}

const char* CurrentDevice(Device* device) {
  *device = {HostDevice().multiprocessors, HostDevice().shared, HostDevice().slow_double};
  return nullptr;
}

const char* WhyUnusable(int) { return nullptr; }

#endif

Queue::Queue(const char* function, const onnx_cbp_cuda_queue& queue) : function_(function), queue_(queue) {
  if (const char* reason = CurrentDevice(&device_)) Fail(reason);
}

}  // namespace onnx_cbp::cuda
