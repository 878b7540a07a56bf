/* The CUDA kernels as plain C functions: what libonnx_cbp_cuda.so exports, for libonnx_cbp.so, which loads it when a
 * session uses ONNX Runtime's CUDA provider, and for callers that have no ONNX Runtime. docs/cuda.md has the
 * conventions, docs/internals/cuda_kernels.md what the kernels do.
 *
 * They are the functions of ../c_api.h, on the same arguments, where every pointer is to memory of the current device,
 * the pointers to counts too. Each call is queued on `stream` and does not wait for it; `workspace` is memory of the
 * device that belongs to the call until the stream has passed it, of onnx_cbp_cuda_workspace() bytes or more, aligned
 * to 16. Null is success, otherwise one line of text, readable until the thread's next call: it names the function and
 * says why. */
#ifndef ONNX_CBP_CUDA_C_API_H_
#define ONNX_CBP_CUDA_C_API_H_

#include <stddef.h>
#include <stdint.h>

#include "../ops/table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ONNX_CBP_CUDA_EXPORT __attribute__((visibility("default")))

/* Goes up when a function changes. The loader refuses every other number than its own. */
#define ONNX_CBP_CUDA_INTERFACE 2
ONNX_CBP_CUDA_EXPORT int onnx_cbp_cuda_interface(void);

/* Null if a device (its number for CUDA; -1: the current one) can run these functions. Otherwise one line, with CUDA's
 * message and what to do about it. */
ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_check(int device);

/* Where a call runs: a cudaStream_t, and its workspace. */
typedef struct onnx_cbp_cuda_queue {
  void* stream;
  void* workspace;
} onnx_cbp_cuda_queue;

/* Bytes of workspace that are enough for every function on this shape and the current device. -1: no device. */
ONNX_CBP_CUDA_EXPORT int64_t onnx_cbp_cuda_workspace(int64_t outer, int64_t channels, int64_t inner);

/* The functions of ops: onnx_cbp_cuda_channel_stats(onnx_cbp_cuda_queue queue, ...) and so on. The workspace of
 * channel_stats_merge and running_stats is that of shape [1, channels, 1]; depthwise_conv_grad_weight needs none, and
 * its lists are in the processor's memory. */
#define ONNX_CBP_CUDA_DECLARE(Name, name, sizes) \
  ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_##name(onnx_cbp_cuda_queue queue, ONNX_CBP_PARAMETERS(name, sizes));
ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_CUDA_DECLARE)
#undef ONNX_CBP_CUDA_DECLARE

/* Memory of the processor that a GPU reads and writes by itself (pinned). One call at a time may use it. */
typedef struct onnx_cbp_cuda_staging onnx_cbp_cuda_staging;
/* Null, and in *staging what onnx_cbp_cuda_staging_delete() takes back; or one line of text. */
ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_staging_new(onnx_cbp_cuda_staging** staging);
ONNX_CBP_CUDA_EXPORT void onnx_cbp_cuda_staging_delete(onnx_cbp_cuda_staging* staging);
/* *memory: so many bytes, aligned to 16, once the last onnx_cbp_cuda_to_device() from there is through; they hold
 * anything. */
ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_staging_reserve(onnx_cbp_cuda_staging* staging, size_t bytes,
                                                               void** memory);

/* One of several copies between the processor's memory and a device's. */
typedef struct onnx_cbp_cuda_copy {
  void* to;
  const void* from;
  size_t bytes;
} onnx_cbp_cuda_copy;

/* Queues copies to the processor's memory on the stream, behind what is there, and waits once for all of them. */
ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_to_host(void* stream, const onnx_cbp_cuda_copy* copies, size_t count);
/* Queues copies from a staging's memory to a device's, and does not wait. */
ONNX_CBP_CUDA_EXPORT const char* onnx_cbp_cuda_to_device(void* stream, onnx_cbp_cuda_staging* staging,
                                                         const onnx_cbp_cuda_copy* copies, size_t count);

#ifdef __cplusplus
}
#endif

#endif /* ONNX_CBP_CUDA_C_API_H_ */
