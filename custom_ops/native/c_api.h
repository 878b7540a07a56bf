/* The kernels as plain C functions, for callers that have no ONNX Runtime: the Python ops and the
 * tests. docs/native_interface.md has the conventions. */
#ifndef ONNX_CBP_C_API_H_
#define ONNX_CBP_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ONNX_CBP_EXPORT __attribute__((visibility("default")))

ONNX_CBP_EXPORT const char* onnx_cbp_version(void);

/* The target of which the kernels run here: avx512, avx2 or baseline. The best that the processor has, or less where
 * the environment variable ONNX_CBP_TARGET asked for less when the first kernel or this function ran. */
ONNX_CBP_EXPORT const char* onnx_cbp_target(void);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_stats(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                   int64_t inner, const void* x, void* mean, void* var, int64_t* count);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_normalize(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                       int64_t inner, double epsilon, const void* x, const void* scale,
                                                       const void* b, const void* mean, const void* var, void* y);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_backprop_stats(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                            int64_t inner, const void* x, const void* mean,
                                                            const void* inv_std, const void* dy, void* scale_grad,
                                                            void* bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_backprop(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                      int64_t inner, const void* dy, const void* x, const void* scale,
                                                      const void* mean, const void* inv_std, const void* scale_grad,
                                                      const void* bias_grad, const int64_t* count, void* dx);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_stats_merge(int stats_type, int64_t replicas, int64_t channels,
                                                         const void* mean, const void* var, const int64_t* count,
                                                         void* merged_mean, void* merged_var, int64_t* merged_count);

ONNX_CBP_EXPORT const char* onnx_cbp_channel_backprop_stats_grad(int x_type, int stats_type, int64_t outer,
                                                                 int64_t channels, int64_t inner, const void* x,
                                                                 const void* mean, const void* inv_std, const void* dy,
                                                                 const void* d_scale_grad, const void* d_bias_grad,
                                                                 void* dx, void* d_mean, void* d_inv_std, void* d_dy);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_train(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                      int64_t inner, double epsilon, const void* x, const void* scale,
                                                      const void* b, void* y, void* mean, void* var, int64_t* count);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_train_update(int x_type, int stats_type, int64_t outer,
                                                             int64_t channels, int64_t inner, double epsilon,
                                                             double momentum, int unbiased, int relu, const void* x,
                                                             const void* scale, const void* b, const void* running_mean,
                                                             const void* running_var, void* y, void* mean,
                                                             void* inv_std, void* updated_mean, void* updated_var);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_relu_train_update(
    int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner, double epsilon, double momentum,
    int unbiased, const void* x, const void* scale, const void* b, const void* running_mean, const void* running_var,
    void* y, void* mean, void* inv_std, void* updated_mean, void* updated_var, void* slope, void* offset);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_recompute_relu_grad(int x_type, int stats_type, int64_t outer,
                                                                    int64_t channels, int64_t inner, const void* dy,
                                                                    const void* x, const void* scale, const void* mean,
                                                                    const void* inv_std, const void* slope,
                                                                    const void* offset, void* dx, void* scale_grad,
                                                                    void* bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_relu_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                          int64_t inner, const void* dy, const void* y, const void* x,
                                                          const void* scale, const void* mean, const void* inv_std,
                                                          void* dx, void* scale_grad, void* bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                     int64_t inner, const void* dy, const void* x, const void* scale,
                                                     const void* mean, const void* inv_std, void* dx, void* scale_grad,
                                                     void* bias_grad);

/* axes: of space, one to three; size, kernel_shape, strides and dilations have a number for each of them, pads two. */
ONNX_CBP_EXPORT const char* onnx_cbp_depthwise_conv_grad_weight(int x_type, int64_t batch, int64_t channels,
                                                                int64_t multiplier, int64_t axes, const int64_t* size,
                                                                const int64_t* kernel_shape, const int64_t* strides,
                                                                const int64_t* pads, const int64_t* dilations,
                                                                const void* x, const void* dy, void* dw);

/* The same of a convolution of one group. */
ONNX_CBP_EXPORT const char* onnx_cbp_direct_conv(int x_type, int64_t batch, int64_t channels, int64_t outputs,
                                                 int64_t axes, const int64_t* size, const int64_t* kernel_shape,
                                                 const int64_t* strides, const int64_t* pads, const int64_t* dilations,
                                                 const void* x, const void* w, void* y);
ONNX_CBP_EXPORT const char* onnx_cbp_direct_conv_exchanged(int x_type, int64_t batch, int64_t channels, int64_t outputs,
                                                           int64_t axes, const int64_t* size,
                                                           const int64_t* kernel_shape, const int64_t* strides,
                                                           const int64_t* pads, const int64_t* dilations, const void* x,
                                                           const void* w, void* y);
ONNX_CBP_EXPORT const char* onnx_cbp_conv_grad_weight(int x_type, int64_t batch, int64_t channels, int64_t outputs,
                                                      int64_t axes, const int64_t* size, const int64_t* kernel_shape,
                                                      const int64_t* strides, const int64_t* pads,
                                                      const int64_t* dilations, const void* x, const void* dy,
                                                      void* dw);

ONNX_CBP_EXPORT const char* onnx_cbp_running_stats(int stats_type, int64_t channels, double momentum, int unbiased,
                                                   const void* running, const void* batch, const int64_t* count,
                                                   void* updated);

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
  /* Null, or what answers null on a thread that must not communicate. */
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

/* Errors of these three stay readable until the thread's next call. */
ONNX_CBP_EXPORT const char* onnx_cbp_all_gather(int stats_type, int64_t channels, int64_t replicas, const char* group,
                                                const char* layer, const void* mean, const void* var,
                                                const int64_t* count, void* means, void* vars, int64_t* counts);

ONNX_CBP_EXPORT const char* onnx_cbp_all_reduce(int stats_type, int64_t channels, const char* group,
                                                const char* reduction, const char* layer, const void* scale_grad,
                                                const void* bias_grad, void* reduced_scale_grad,
                                                void* reduced_bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_all_reduce_bucket(int stats_type, int64_t elements, const char* group,
                                                       const char* reduction, const char* layer, const void* bucket,
                                                       void* reduced);

#ifdef __cplusplus
}
#endif

#endif /* ONNX_CBP_C_API_H_ */
