// Elements of tensors, as many as one instruction loads, and their conversions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../kernels/element_types.h"
#include "../threads/block.h"

namespace onnx_cbp::cuda {

// kWidth neighbouring elements, at an address that is a multiple of their size.
template <typename T, int kWidth, bool kPacked = (sizeof(T) == 2 && kWidth > 1)>
struct Vector {
  T elements[kWidth];

  ONNX_CBP_DEVICE T At(int i) const { return elements[i]; }
  ONNX_CBP_DEVICE void Set(int i, T element) { elements[i] = element; }
};

// For elements of 16 bits: two share a register.
template <typename T, int kWidth>
struct Vector<T, kWidth, true> {
  uint32_t words[kWidth / 2];

  ONNX_CBP_DEVICE T At(int i) const { return {static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16))}; }
  ONNX_CBP_DEVICE void Set(int i, T element) {
    const int shift = i % 2 * 16;
    words[i / 2] = (words[i / 2] & ~(0xffffu << shift)) | static_cast<uint32_t>(element.bits) << shift;
  }
};

// The values that a thread reads at once. Near the end of its work a thread sets only some of them. On the host all are
// first filled with NaN, so tests see if a value is used that was never set.
template <typename V, int kCount>
struct Batch {
  V values[kCount];

#if defined(__CUDACC__)
  __device__ __forceinline__ Batch() {}
#else
  Batch() { std::memset(static_cast<void*>(values), 0xff, sizeof values); }
#endif
  ONNX_CBP_DEVICE V& operator[](int i) { return values[i]; }
  ONNX_CBP_DEVICE const V& operator[](int i) const { return values[i]; }
};

#if defined(__CUDACC__)
namespace words {
template <int kBytes>
struct Of;
template <>
struct Of<16> {
  using Type = uint4;
};
template <>
struct Of<8> {
  using Type = uint2;
};
template <>
struct Of<4> {
  using Type = unsigned int;
};
template <>
struct Of<2> {
  using Type = unsigned short;
};
}  // namespace words
#endif

// kLast: nothing reads the elements again soon, so they need not stay in the caches.
template <int kWidth, bool kLast = false, typename T>
ONNX_CBP_DEVICE Vector<T, kWidth> LoadVector(const T* from) {
  Vector<T, kWidth> vector;
#if defined(__CUDACC__)
  using Word = typename words::Of<static_cast<int>(sizeof vector)>::Type;
  const Word word = kLast ? __ldcs(reinterpret_cast<const Word*>(from)) : *reinterpret_cast<const Word*>(from);
  memcpy(&vector, &word, sizeof vector);
#else
  std::memcpy(&vector, __builtin_assume_aligned(from, sizeof vector), sizeof vector);
#endif
  return vector;
}

template <int kWidth, typename T>
ONNX_CBP_DEVICE void StoreVector(const Vector<T, kWidth>& vector, T* to) {
#if defined(__CUDACC__)
  using Word = typename words::Of<static_cast<int>(sizeof vector)>::Type;
  Word word;
  memcpy(&word, &vector, sizeof vector);
  // Not an assignment, though it is the same store: for elements of 16 bits nvcc splits an assignment into stores of 4
  // bytes.
  __stwb(reinterpret_cast<Word*>(to), word);
#else
  std::memcpy(__builtin_assume_aligned(to, sizeof vector), &vector, sizeof vector);
#endif
}

// The first `count` elements of a vector; the others are zeros.
template <int kWidth, typename T>
ONNX_CBP_DEVICE Vector<T, kWidth> LoadFirst(const T* from, int64_t count) {
  Vector<T, kWidth> vector{};
  for (int i = 0; i < kWidth; ++i) {
    if (i < count) vector.Set(i, from[i]);
  }
  return vector;
}

// An element, converted to the type of the computation. For float16, the device has an instruction.
template <typename V, typename T>
ONNX_CBP_DEVICE V Widen(T element) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, Float16>) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(element.bits));
    return static_cast<V>(value);
  } else
#endif
    return static_cast<V>(Load(element));
}

// A computed value, rounded to an element. The device has instructions for it, but before sm_80 none for bfloat16.
template <typename T, typename V>
ONNX_CBP_DEVICE T Round(V value) {
  T element;
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, Float16>) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(element.bits) : "f"(static_cast<float>(value)));
  } else
#if __CUDA_ARCH__ >= 800
      if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(element.bits) : "f"(static_cast<float>(value)));
  } else
#endif
#endif
    Store(value, &element);
  return element;
}

// a * b + c, rounded once.
ONNX_CBP_DEVICE float MulAdd(float a, float b, float c) { return std::fma(a, b, c); }
ONNX_CBP_DEVICE double MulAdd(double a, double b, double c) { return std::fma(a, b, c); }

}  // namespace onnx_cbp::cuda
