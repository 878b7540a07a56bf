// Copies between the processor's memory and a device's (c_api.h), for collectives.
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "c_api.h"
#include "queue.h"

using onnx_cbp::cuda::Queue;

#if defined(__CUDACC__)

struct onnx_cbp_cuda_staging {
  void* memory = nullptr;
  size_t capacity = 0;
  cudaEvent_t copied = nullptr;  // after the last copies to a device
};

namespace {

void QueueCopies(Queue* queue, cudaStream_t stream, const onnx_cbp_cuda_copy* copies, size_t count,
                 cudaMemcpyKind kind) {
  for (size_t i = 0; i < count && queue->result() == nullptr; ++i) {
    const onnx_cbp_cuda_copy& copy = copies[i];
    if (copy.bytes > 0) queue->Check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, kind, stream));
  }
}

}  // namespace

const char* onnx_cbp_cuda_staging_new(onnx_cbp_cuda_staging** staging) {
  Queue queue(__func__, {nullptr, nullptr});
  cudaEvent_t copied = nullptr;
  if (queue.result() == nullptr) queue.Check(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  if (queue.result() != nullptr) return queue.result();
  *staging = new (std::nothrow) onnx_cbp_cuda_staging{nullptr, 0, copied};
  if (*staging == nullptr) {
    cudaEventDestroy(copied);
    queue.Fail("out of memory");
  }
  return queue.result();
}

void onnx_cbp_cuda_staging_delete(onnx_cbp_cuda_staging* staging) {
  if (staging == nullptr) return;
  // At exit the driver may already be gone; then it has freed everything.
  cudaEventSynchronize(staging->copied);
  cudaFreeHost(staging->memory);
  cudaEventDestroy(staging->copied);
  cudaGetLastError();
  delete staging;
}

const char* onnx_cbp_cuda_staging_reserve(onnx_cbp_cuda_staging* staging, size_t bytes, void** memory) {
  Queue queue(__func__, {nullptr, nullptr});
  if (queue.result() == nullptr) queue.Check(cudaEventSynchronize(staging->copied));
  if (queue.result() == nullptr && bytes > staging->capacity) {
    queue.Check(cudaFreeHost(staging->memory));
    staging->memory = nullptr;
    staging->capacity = 0;
    if (queue.result() == nullptr) queue.Check(cudaHostAlloc(&staging->memory, bytes, cudaHostAllocPortable));
    if (queue.result() == nullptr) staging->capacity = bytes;
  }
  *memory = staging->memory;
  return queue.result();
}

const char* onnx_cbp_cuda_to_host(void* stream, const onnx_cbp_cuda_copy* copies, size_t count) {
  Queue queue(__func__, {stream, nullptr});
  QueueCopies(&queue, static_cast<cudaStream_t>(stream), copies, count, cudaMemcpyDeviceToHost);
  if (queue.result() == nullptr) queue.Check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  return queue.result();
}

const char* onnx_cbp_cuda_to_device(void* stream, onnx_cbp_cuda_staging* staging, const onnx_cbp_cuda_copy* copies,
                                    size_t count) {
  Queue queue(__func__, {stream, nullptr});
  QueueCopies(&queue, static_cast<cudaStream_t>(stream), copies, count, cudaMemcpyHostToDevice);
  // Also after a failure: some copies may be under way.
  const cudaError_t error = cudaEventRecord(staging->copied, static_cast<cudaStream_t>(stream));
  if (queue.result() == nullptr) queue.Check(error);
  return queue.result();
}

#else

struct onnx_cbp_cuda_staging {
  std::vector<double> memory;
};

namespace {

void CopyAll(const onnx_cbp_cuda_copy* copies, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (copies[i].bytes > 0) std::memcpy(copies[i].to, copies[i].from, copies[i].bytes);
  }
}

}  // namespace

const char* onnx_cbp_cuda_staging_new(onnx_cbp_cuda_staging** staging) {
  *staging = new onnx_cbp_cuda_staging;
  return nullptr;
}

void onnx_cbp_cuda_staging_delete(onnx_cbp_cuda_staging* staging) { delete staging; }

const char* onnx_cbp_cuda_staging_reserve(onnx_cbp_cuda_staging* staging, size_t bytes, void** memory) {
  // Elements that no copy writes are NaN.
  staging->memory.assign(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN());
  *memory = staging->memory.data();
  return nullptr;
}

const char* onnx_cbp_cuda_to_host(void*, const onnx_cbp_cuda_copy* copies, size_t count) {
  CopyAll(copies, count);
  return nullptr;
}

const char* onnx_cbp_cuda_to_device(void*, onnx_cbp_cuda_staging*, const onnx_cbp_cuda_copy* copies, size_t count) {
  CopyAll(copies, count);
  return nullptr;
}

#endif
