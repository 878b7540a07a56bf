// The functions of libonnx_cbp_cuda.so, as a table for the adapter.
#pragma once

#include "../../cuda/c_api.h"

namespace onnx_cbp {

struct CudaLibrary {
  // Whether the file exists (docs/cuda.md says where it is looked for). Loads nothing.
  static bool Present();
  // The library. The first call loads it, and it stays loaded; sessions on the processor never load it. Throws
  // Ort::Exception with one line that names the file.
  static const CudaLibrary& Get();

  decltype(&onnx_cbp_cuda_check) check;
  decltype(&onnx_cbp_cuda_workspace) workspace;
  decltype(&onnx_cbp_cuda_staging_new) staging_new;
  decltype(&onnx_cbp_cuda_staging_delete) staging_delete;
  decltype(&onnx_cbp_cuda_staging_reserve) staging_reserve;
  decltype(&onnx_cbp_cuda_to_host) to_host;
  decltype(&onnx_cbp_cuda_to_device) to_device;
#define ONNX_CBP_FUNCTION(Name, name, sizes) decltype(&onnx_cbp_cuda_##name) name;
  ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_FUNCTION)
#undef ONNX_CBP_FUNCTION

 private:
  static CudaLibrary Load();
};

}  // namespace onnx_cbp
