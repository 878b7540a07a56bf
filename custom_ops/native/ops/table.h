/* The ops of the domain, each written once. From this table come the plain C functions (c_api.h, cuda/c_api.h), the
 * arguments of kernels (arguments.h), the specifications for ONNX Runtime (ort/op_specs.cc), the functions that are
 * looked up in the library of CUDA kernels, and the calls that tests replay. Names and order are those of
 * custom_ops/ops/; a test compares them.
 *
 * C can read it, too. */
#ifndef ONNX_CBP_OPS_TABLE_H_
#define ONNX_CBP_OPS_TABLE_H_

/* OP(Name, name, Sizes): its name in ONNX; the name of its C function, after onnx_cbp_; and the types and sizes that
 * this function takes first. */
#define ONNX_CBP_OPS_ON_CHANNELS(OP)                                 \
  OP(ChannelStats, channel_stats, Tensor)                            \
  OP(ChannelStatsMerge, channel_stats_merge, Replicas)               \
  OP(ChannelNormalize, channel_normalize, Tensor)                    \
  OP(ChannelBackpropStats, channel_backprop_stats, Tensor)           \
  OP(ChannelBackprop, channel_backprop, Tensor)                      \
  OP(ChannelBackpropStatsGrad, channel_backprop_stats_grad, Tensor)  \
  OP(RunningStats, running_stats, Vectors)                           \
  OP(BatchNormTrain, batch_norm_train, Tensor)                       \
  OP(BatchNormGrad, batch_norm_grad, Tensor)                         \
  OP(BatchNormTrainUpdate, batch_norm_train_update, Tensor)          \
  OP(BatchNormReluGrad, batch_norm_relu_grad, Tensor)                \
  OP(BatchNormReluTrainUpdate, batch_norm_relu_train_update, Tensor) \
  OP(BatchNormRecomputeReluGrad, batch_norm_recompute_relu_grad, Tensor)
#define ONNX_CBP_OPS_ON_DEPTHWISE_WINDOWS(OP) OP(DepthwiseConvGradWeight, depthwise_conv_grad_weight, DepthwiseWindows)
#define ONNX_CBP_OPS_WITH_CUDA(OP) ONNX_CBP_OPS_ON_CHANNELS(OP) ONNX_CBP_OPS_ON_DEPTHWISE_WINDOWS(OP)
/* These have no CUDA kernels of ours: cuDNN's are better. */
#define ONNX_CBP_CONVOLUTIONS(OP)                              \
  OP(DirectConv, direct_conv, DenseWindows)                    \
  OP(DirectConvExchanged, direct_conv_exchanged, DenseWindows) \
  OP(ConvGradWeight, conv_grad_weight, DenseWindows)
/* The processor sends their messages. */
#define ONNX_CBP_COLLECTIVES(OP)    \
  OP(AllGather, all_gather, Gather) \
  OP(AllReduce, all_reduce, Reduce) \
  OP(AllReduceBucket, all_reduce_bucket, Reduce)
#define ONNX_CBP_OPS(OP) ONNX_CBP_OPS_WITH_CUDA(OP) ONNX_CBP_CONVOLUTIONS(OP) ONNX_CBP_COLLECTIVES(OP)

/* What an op has, in order: ATTRIBUTE(type, name), IN(name, Formal, Kind), OUT(name, Formal, Kind). Formal is the name
 * in ONNX. `axis`, `stash_type` and the lists of a convolution are no attributes here: types and sizes tell them. */
#define ONNX_CBP_OF_channel_stats(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                      \
  OUT(mean, mean, Vector)                             \
  OUT(var, var, Vector)                               \
  OUT(count, count, Count)

#define ONNX_CBP_OF_channel_stats_merge(ATTRIBUTE, IN, OUT) \
  IN(mean, mean, ReplicaVectors)                            \
  IN(var, var, ReplicaVectors)                              \
  IN(count, count, ReplicaCounts)                           \
  OUT(merged_mean, mean, Vector)                            \
  OUT(merged_var, var, Vector)                              \
  OUT(merged_count, count, Count)

#define ONNX_CBP_OF_channel_normalize(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(double, epsilon)                              \
  IN(x, X, Data)                                          \
  IN(scale, scale, Vector)                                \
  IN(b, B, Vector)                                        \
  IN(mean, mean, Vector)                                  \
  IN(var, var, Vector)                                    \
  OUT(y, Y, Data)

#define ONNX_CBP_OF_channel_backprop_stats(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                               \
  IN(mean, mean, Vector)                                       \
  IN(inv_std, inv_std, Vector)                                 \
  IN(dy, dY, Data)                                             \
  OUT(scale_grad, scale_grad, Vector)                          \
  OUT(bias_grad, bias_grad, Vector)

#define ONNX_CBP_OF_channel_backprop(ATTRIBUTE, IN, OUT) \
  IN(dy, dY, Data)                                       \
  IN(x, X, Data)                                         \
  IN(scale, scale, Vector)                               \
  IN(mean, mean, Vector)                                 \
  IN(inv_std, inv_std, Vector)                           \
  IN(scale_grad, scale_grad, Vector)                     \
  IN(bias_grad, bias_grad, Vector)                       \
  IN(count, count, Count)                                \
  OUT(dx, dX, Data)

#define ONNX_CBP_OF_channel_backprop_stats_grad(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                                    \
  IN(mean, mean, Vector)                                            \
  IN(inv_std, inv_std, Vector)                                      \
  IN(dy, dY, Data)                                                  \
  IN(d_scale_grad, d_scale_grad, Vector)                            \
  IN(d_bias_grad, d_bias_grad, Vector)                              \
  OUT(dx, dX, Data)                                                 \
  OUT(d_mean, d_mean, Vector)                                       \
  OUT(d_inv_std, d_inv_std, Vector)                                 \
  OUT(d_dy, d_dY, Data)

#define ONNX_CBP_OF_running_stats(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(double, momentum)                         \
  ATTRIBUTE(int, unbiased)                            \
  IN(running, running, Vector)                        \
  IN(batch, batch, Vector)                            \
  IN(count, count, Count)                             \
  OUT(updated, updated, Vector)

#define ONNX_CBP_OF_batch_norm_train(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(double, epsilon)                             \
  IN(x, X, Data)                                         \
  IN(scale, scale, Vector)                               \
  IN(b, B, Vector)                                       \
  OUT(y, Y, Data)                                        \
  OUT(mean, mean, Vector)                                \
  OUT(var, var, Vector)                                  \
  OUT(count, count, Count)

#define ONNX_CBP_OF_batch_norm_grad(ATTRIBUTE, IN, OUT) \
  IN(dy, dY, Data)                                      \
  IN(x, X, Data)                                        \
  IN(scale, scale, Vector)                              \
  IN(mean, mean, Vector)                                \
  IN(inv_std, inv_std, Vector)                          \
  OUT(dx, dX, Data)                                     \
  OUT(scale_grad, scale_grad, Vector)                   \
  OUT(bias_grad, bias_grad, Vector)

#define ONNX_CBP_OF_batch_norm_train_update(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(double, epsilon)                                    \
  ATTRIBUTE(double, momentum)                                   \
  ATTRIBUTE(int, unbiased)                                      \
  ATTRIBUTE(int, relu)                                          \
  IN(x, X, Data)                                                \
  IN(scale, scale, Vector)                                      \
  IN(b, B, Vector)                                              \
  IN(running_mean, running_mean, Vector)                        \
  IN(running_var, running_var, Vector)                          \
  OUT(y, Y, Data)                                               \
  OUT(mean, mean, Vector)                                       \
  OUT(inv_std, inv_std, Vector)                                 \
  OUT(updated_mean, updated_mean, Vector)                       \
  OUT(updated_var, updated_var, Vector)

#define ONNX_CBP_OF_batch_norm_relu_grad(ATTRIBUTE, IN, OUT) \
  IN(dy, dY, Data)                                           \
  IN(y, Y, Data)                                             \
  IN(x, X, Data)                                             \
  IN(scale, scale, Vector)                                   \
  IN(mean, mean, Vector)                                     \
  IN(inv_std, inv_std, Vector)                               \
  OUT(dx, dX, Data)                                          \
  OUT(scale_grad, scale_grad, Vector)                        \
  OUT(bias_grad, bias_grad, Vector)

#define ONNX_CBP_OF_batch_norm_relu_train_update(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(double, epsilon)                                         \
  ATTRIBUTE(double, momentum)                                        \
  ATTRIBUTE(int, unbiased)                                           \
  IN(x, X, Data)                                                     \
  IN(scale, scale, Vector)                                           \
  IN(b, B, Vector)                                                   \
  IN(running_mean, running_mean, Vector)                             \
  IN(running_var, running_var, Vector)                               \
  OUT(y, Y, Data)                                                    \
  OUT(mean, mean, Vector)                                            \
  OUT(inv_std, inv_std, Vector)                                      \
  OUT(updated_mean, updated_mean, Vector)                            \
  OUT(updated_var, updated_var, Vector)                              \
  OUT(slope, slope, Vector)                                          \
  OUT(offset, offset, Vector)

#define ONNX_CBP_OF_batch_norm_recompute_relu_grad(ATTRIBUTE, IN, OUT) \
  IN(dy, dY, Data)                                                     \
  IN(x, X, Data)                                                       \
  IN(scale, scale, Vector)                                             \
  IN(mean, mean, Vector)                                               \
  IN(inv_std, inv_std, Vector)                                         \
  IN(slope, slope, Vector)                                             \
  IN(offset, offset, Vector)                                           \
  OUT(dx, dX, Data)                                                    \
  OUT(scale_grad, scale_grad, Vector)                                  \
  OUT(bias_grad, bias_grad, Vector)

#define ONNX_CBP_OF_depthwise_conv_grad_weight(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                                   \
  IN(dy, dY, DepthwiseResults)                                     \
  OUT(dw, dW, DepthwiseWeight)

#define ONNX_CBP_OF_direct_conv(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                    \
  IN(w, W, Weight)                                  \
  OUT(y, Y, Results)

#define ONNX_CBP_OF_direct_conv_exchanged(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                              \
  IN(w, W, ExchangedWeight)                                   \
  OUT(y, Y, Results)

#define ONNX_CBP_OF_conv_grad_weight(ATTRIBUTE, IN, OUT) \
  IN(x, X, Data)                                         \
  IN(dy, dY, Results)                                    \
  OUT(dw, dW, Weight)

#define ONNX_CBP_OF_all_gather(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(const char*, group)                    \
  ATTRIBUTE(const char*, layer)                    \
  IN(mean, mean, Vector)                           \
  IN(var, var, Vector)                             \
  IN(count, count, Count)                          \
  OUT(means, mean, ReplicaVectors)                 \
  OUT(vars, var, ReplicaVectors)                   \
  OUT(counts, count, ReplicaCounts)

#define ONNX_CBP_OF_all_reduce(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(const char*, group)                    \
  ATTRIBUTE(const char*, reduction)                \
  ATTRIBUTE(const char*, layer)                    \
  IN(scale_grad, scale_grad, Vector)               \
  IN(bias_grad, bias_grad, Vector)                 \
  OUT(reduced_scale_grad, scale_grad, Vector)      \
  OUT(reduced_bias_grad, bias_grad, Vector)

#define ONNX_CBP_OF_all_reduce_bucket(ATTRIBUTE, IN, OUT) \
  ATTRIBUTE(const char*, group)                           \
  ATTRIBUTE(const char*, reduction)                       \
  ATTRIBUTE(const char*, layer)                           \
  IN(bucket, bucket, Vector)                              \
  OUT(reduced, reduced, Vector)

/* Types and sizes, as parameters and as what a function passes on. */
#define ONNX_CBP_SIZES_Tensor int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner
#define ONNX_CBP_VALUES_Tensor x_type, stats_type, outer, channels, inner
#define ONNX_CBP_SIZES_Vectors int stats_type, int64_t channels
#define ONNX_CBP_VALUES_Vectors stats_type, channels
#define ONNX_CBP_SIZES_Replicas int stats_type, int64_t replicas, int64_t channels
#define ONNX_CBP_VALUES_Replicas stats_type, replicas, channels
#define ONNX_CBP_SIZES_Gather int stats_type, int64_t channels, int64_t replicas
#define ONNX_CBP_VALUES_Gather stats_type, channels, replicas
#define ONNX_CBP_SIZES_Reduce int stats_type, int64_t channels
#define ONNX_CBP_VALUES_Reduce stats_type, channels
/* axes: of space, one to three; size, kernel_shape, strides and dilations have a number for each of them, pads two. */
#define ONNX_CBP_SIZES_DepthwiseWindows                                                               \
  int x_type, int64_t batch, int64_t channels, int64_t multiplier, int64_t axes, const int64_t *size, \
      const int64_t *kernel_shape, const int64_t *strides, const int64_t *pads, const int64_t *dilations
#define ONNX_CBP_VALUES_DepthwiseWindows \
  x_type, batch, channels, multiplier, axes, size, kernel_shape, strides, pads, dilations
#define ONNX_CBP_SIZES_DenseWindows                                                                \
  int x_type, int64_t batch, int64_t channels, int64_t outputs, int64_t axes, const int64_t *size, \
      const int64_t *kernel_shape, const int64_t *strides, const int64_t *pads, const int64_t *dilations
#define ONNX_CBP_VALUES_DenseWindows \
  x_type, batch, channels, outputs, axes, size, kernel_shape, strides, pads, dilations

/* What a Kind's elements are to C. */
#define ONNX_CBP_ELEMENT_Data void
#define ONNX_CBP_ELEMENT_Vector void
#define ONNX_CBP_ELEMENT_ReplicaVectors void
#define ONNX_CBP_ELEMENT_Count int64_t
#define ONNX_CBP_ELEMENT_ReplicaCounts int64_t
#define ONNX_CBP_ELEMENT_DepthwiseResults void
#define ONNX_CBP_ELEMENT_DepthwiseWeight void
#define ONNX_CBP_ELEMENT_Results void
#define ONNX_CBP_ELEMENT_Weight void
#define ONNX_CBP_ELEMENT_ExchangedWeight void

/* The parameters of an op's C function. */
#define ONNX_CBP_PARAMETER_ATTRIBUTE(type, name) , type name
#define ONNX_CBP_PARAMETER_IN(name, formal, kind) , const ONNX_CBP_ELEMENT_##kind* name
#define ONNX_CBP_PARAMETER_OUT(name, formal, kind) , ONNX_CBP_ELEMENT_##kind* name
#define ONNX_CBP_PARAMETERS(name, sizes) \
  ONNX_CBP_SIZES_##sizes ONNX_CBP_OF_##name(ONNX_CBP_PARAMETER_ATTRIBUTE, ONNX_CBP_PARAMETER_IN, ONNX_CBP_PARAMETER_OUT)

#endif /* ONNX_CBP_OPS_TABLE_H_ */
