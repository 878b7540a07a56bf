/* The kernels as plain C functions, for callers that have no ONNX Runtime: the Python ops and the
 * tests. docs/native_interface.md has the conventions. */
#ifndef ONNX_CBP_C_API_H_
#define ONNX_CBP_C_API_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ONNX_CBP_EXPORT __attribute__((visibility("default")))

ONNX_CBP_EXPORT const char* onnx_cbp_version(void);

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

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_relu_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                          int64_t inner, const void* dy, const void* y, const void* x,
                                                          const void* scale, const void* mean, const void* inv_std,
                                                          void* dx, void* scale_grad, void* bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_batch_norm_grad(int x_type, int stats_type, int64_t outer, int64_t channels,
                                                     int64_t inner, const void* dy, const void* x, const void* scale,
                                                     const void* mean, const void* inv_std, void* dx, void* scale_grad,
                                                     void* bias_grad);

ONNX_CBP_EXPORT const char* onnx_cbp_running_stats(int stats_type, int64_t channels, double momentum, int unbiased,
                                                   const void* running, const void* batch, const int64_t* count,
                                                   void* updated);

#ifdef __cplusplus
}
#endif

#endif /* ONNX_CBP_C_API_H_ */
