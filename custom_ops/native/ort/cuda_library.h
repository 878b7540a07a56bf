// libonnx_cbp_cuda.so as the adapter sees it: a table of its functions.
#pragma once

#include "../cuda/c_api.h"

namespace onnx_cbp {

struct CudaLibrary {
  // Whether there is such a file (docs/cuda.md says where it is looked for). Loads nothing.
  static bool Present();
  // The library, loaded by the first call and kept: users of the processor never load it. Throws Ort::Exception with
  // one line that names the file.
  static const CudaLibrary& Get();

  decltype(&onnx_cbp_cuda_check) check;
  decltype(&onnx_cbp_cuda_workspace) workspace;
  decltype(&onnx_cbp_cuda_staging_new) staging_new;
  decltype(&onnx_cbp_cuda_staging_delete) staging_delete;
  decltype(&onnx_cbp_cuda_staging_reserve) staging_reserve;
  decltype(&onnx_cbp_cuda_to_host) to_host;
  decltype(&onnx_cbp_cuda_to_device) to_device;
  decltype(&onnx_cbp_cuda_channel_stats) channel_stats;
  decltype(&onnx_cbp_cuda_channel_normalize) channel_normalize;
  decltype(&onnx_cbp_cuda_channel_backprop_stats) channel_backprop_stats;
  decltype(&onnx_cbp_cuda_channel_backprop) channel_backprop;
  decltype(&onnx_cbp_cuda_channel_stats_merge) channel_stats_merge;
  decltype(&onnx_cbp_cuda_channel_backprop_stats_grad) channel_backprop_stats_grad;
  decltype(&onnx_cbp_cuda_batch_norm_train) batch_norm_train;
  decltype(&onnx_cbp_cuda_batch_norm_train_update) batch_norm_train_update;
  decltype(&onnx_cbp_cuda_batch_norm_relu_train_update) batch_norm_relu_train_update;
  decltype(&onnx_cbp_cuda_batch_norm_grad) batch_norm_grad;
  decltype(&onnx_cbp_cuda_batch_norm_relu_grad) batch_norm_relu_grad;
  decltype(&onnx_cbp_cuda_batch_norm_recompute_relu_grad) batch_norm_recompute_relu_grad;
  decltype(&onnx_cbp_cuda_depthwise_conv_grad_weight) depthwise_conv_grad_weight;
  decltype(&onnx_cbp_cuda_running_stats) running_stats;

 private:
  static CudaLibrary Load();
};

}  // namespace onnx_cbp
