// ONNX Runtime's headers, with the version of the API chosen at run time: one library serves every
// runtime from 1.17 on.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace onnx_cbp {

// KernelContext_ParallelFor came with this version.
constexpr uint32_t kOldestApi = 17;

// The version in use: the older of the headers' and the runtime's. Set once, when the library is
// registered.
uint32_t ApiVersion();

}  // namespace onnx_cbp
