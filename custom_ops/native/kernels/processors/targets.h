// The targets: the kinds of processor for which loops/*.cc are compiled. Each of those files is compiled once per
// target, with the target's instructions and with ONNX_CBP_TARGET as its namespace. At run time the best target of the
// machine is chosen.
//
// Code for one target must never be linked into another. The linker keeps one copy of a template's instantiation,
// whoever made it. So those files use no templates of the standard library, and code that they share with others is
// always inlined.
#pragma once

// CUDA kernels share some of these functions, so for CUDA they exist on the host and on the device.
#if defined(__CUDACC__)
#define ONNX_CBP_INLINE __host__ __device__ __forceinline__
#else
#define ONNX_CBP_INLINE inline __attribute__((always_inline))
#endif

// avx512 and avx2 are the levels x86-64-v4 and v3. baseline is what every processor has: SSE2 on x86, Neon on AArch64.
#if defined(__x86_64__)
#define ONNX_CBP_FOR_EACH_TARGET(F) F(avx512) F(avx2) F(baseline)
#else
#define ONNX_CBP_FOR_EACH_TARGET(F) F(baseline)
#endif

namespace onnx_cbp {

enum class Target { baseline, avx2, avx512 };

// The best target of this machine. The environment variable ONNX_CBP_TARGET=baseline|avx2|avx512 can ask for less.
Target ActiveTarget();

// The name of the active target, as in the environment variable.
const char* ActiveTargetName();

}  // namespace onnx_cbp

// Calls the function that is compiled for the active target with (arguments), and returns its result.
#define ONNX_CBP_TARGET_CASE(target, arguments, ...) \
  case Target::target:                               \
    return target::__VA_ARGS__ arguments;
#if defined(__x86_64__)
#define ONNX_CBP_RETURN_ON_TARGET(arguments, ...)        \
  switch (ActiveTarget()) {                              \
    ONNX_CBP_TARGET_CASE(avx512, arguments, __VA_ARGS__) \
    ONNX_CBP_TARGET_CASE(avx2, arguments, __VA_ARGS__)   \
    default:                                             \
      return baseline::__VA_ARGS__ arguments;            \
  }
#else
#define ONNX_CBP_RETURN_ON_TARGET(arguments, ...) return baseline::__VA_ARGS__ arguments
#endif
