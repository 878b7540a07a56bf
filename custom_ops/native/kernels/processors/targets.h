// The processors that loops/*.cc are compiled for. Each of those files is compiled once a target, with the target's
// instructions and with ONNX_CBP_TARGET as its namespace; the best that this machine has is picked at run time.
//
// What is compiled for one target must never be linked into another. So those files use no standard library templates
// (the linker keeps one copy of an instantiation, whoever made it), and what they share with others is always inlined.
#pragma once

// For CUDA, whose kernels share some of these functions, they exist on both sides.
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

// The best one here; the environment variable ONNX_CBP_TARGET=baseline|avx2|avx512 asks for less.
Target ActiveTarget();

// The name of the active target, as in the environment variable.
const char* ActiveTargetName();

}  // namespace onnx_cbp

// Returns what a function, compiled for the active target, returns for (arguments).
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
