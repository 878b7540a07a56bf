/* The kernels as plain C functions, for callers that have no ONNX Runtime: the Python ops and the
 * tests. docs/internals/native_interface.md has the conventions. */
#ifndef ONNX_CBP_C_API_H_
#define ONNX_CBP_C_API_H_

#include <stddef.h>
#include <stdint.h>

#include "ops/table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ONNX_CBP_EXPORT __attribute__((visibility("default")))

ONNX_CBP_EXPORT const char* onnx_cbp_version(void);

/* The target whose kernels run here: avx512, avx2 or baseline. It is the best that the processor has, or less if the
 * environment variable ONNX_CBP_TARGET asked for less when the first kernel or this function ran. */
ONNX_CBP_EXPORT const char* onnx_cbp_target(void);

/* The functions of ops: onnx_cbp_channel_stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t
 * inner, const void* x, void* mean, void* var, int64_t* count) and so on, as ops/table.h has them: types and sizes,
 * attributes, inputs, outputs. docs/internals/native_interface.md has them written out. Errors of collectives stay
 * readable until the thread's next call. */
#define ONNX_CBP_DECLARE(Name, name, sizes) \
  ONNX_CBP_EXPORT const char* onnx_cbp_##name(ONNX_CBP_PARAMETERS(name, sizes));
ONNX_CBP_OPS(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

/* Collectives. A message is a header of ONNX_CBP_MESSAGE_HEADER elements, for the communicator's own use, and a
 * payload. Functions of a communicator answer -1 on failure, with one line of text of at most ONNX_CBP_ERROR_CAPACITY
 * bytes in `error`, its terminating zero included; they return within a time limit of their own. Once one has failed,
 * the memory that it was given is never used again by the library. */
#define ONNX_CBP_MESSAGE_HEADER 8
#define ONNX_CBP_ERROR_CAPACITY 2048

typedef struct onnx_cbp_collective {
  int64_t id;        /* names this node with this number of elements in this process; -1: not a node's */
  const char* name;  /* the op */
  const char* layer; /* attribute layer, or the node's name */
  const char* group; /* attribute group */
  int type;          /* of the elements: float (1) or double (11) */
  int64_t elements;  /* of the payload */
} onnx_cbp_collective;

typedef struct onnx_cbp_communicator {
  void* user; /* handed to each function */
  /* Null, or a function that answers null on a thread that must not communicate. */
  const void* (*thread)(void);
  /* The number of replicas in the group of the calling thread's replica. */
  int64_t (*replicas)(void* user, const char* group, char* error, size_t capacity);
  /* Every replica's `send`, by rank, into `receive` [replicas, header + elements]. Answers the number of replicas. */
  int64_t (*all_gather)(void* user, int64_t id, const onnx_cbp_collective* collective, void* send, void* receive,
                        char* error, size_t capacity);
  /* The sum over the replicas, in place. Answers the number of replicas. */
  int64_t (*all_reduce)(void* user, int64_t id, const onnx_cbp_collective* collective, void* message, char* error,
                        size_t capacity);
} onnx_cbp_communicator;

/* The communicator of the process, kept by pointer; null: every session is a single replica. */
ONNX_CBP_EXPORT void onnx_cbp_set_communicator(const onnx_cbp_communicator* communicator);

#ifdef __cplusplus
}
#endif

#endif /* ONNX_CBP_C_API_H_ */
