// ONNX Runtime's headers, with the version of the API chosen at run time: one library serves every runtime from 1.17
// on.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace onnx_cbp {

// The first version with KernelContext_ParallelFor.
constexpr uint32_t kOldestApi = 17;

// The first version with KernelContext_GetScratchBuffer. A library built with older headers would silently not use
// newer functions.
constexpr uint32_t kScratchBuffers = 18;
static_assert(ORT_API_VERSION >= kScratchBuffers,
              "onnx_cbp needs the headers of ONNX Runtime 1.18 or newer: unset ONNXRUNTIME_INCLUDE_DIR, or name newer "
              "ones with it");

// The version in use: the older of the headers' and the runtime's. It is set once, when the library is registered.
uint32_t ApiVersion();

}  // namespace onnx_cbp
