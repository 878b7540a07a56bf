// The element types of X: how to read them into the type in which a kernel computes, and how to write them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "processors/targets.h"

namespace onnx_cbp {

// ONNX's numbers (TensorProto.DataType).
enum ElementType : int { kFloat = 1, kInt64 = 7, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

ONNX_CBP_INLINE uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

ONNX_CBP_INLINE float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// All bits set if a < b, else 0; both must be below 2^31.
ONNX_CBP_INLINE uint32_t MaskIfLess(uint32_t a, uint32_t b) { return 0u - ((a - b) >> 31); }

ONNX_CBP_INLINE float Load(float value) { return value; }
ONNX_CBP_INLINE double Load(double value) { return value; }
ONNX_CBP_INLINE float Load(BFloat16 value) { return FloatOf(static_cast<uint32_t>(value.bits) << 16); }
ONNX_CBP_INLINE float Load(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  // The biases of the exponents differ by 112. Scaling by 2^112 adds this, and makes subnormals right too.
  const uint32_t finite = BitsOf(FloatOf(magnitude) * FloatOf(0x77800000u));
  const uint32_t scaled = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;  // Inf and NaN
  return FloatOf(scaled | sign);
}

ONNX_CBP_INLINE void Store(float value, float* out) { *out = value; }
ONNX_CBP_INLINE void Store(double value, double* out) { *out = value; }
ONNX_CBP_INLINE void Store(double value, float* out) { *out = static_cast<float>(value); }
ONNX_CBP_INLINE void Store(float value, BFloat16* out) {
  uint32_t bits = BitsOf(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);  // to nearest, ties to even
  const uint32_t quiet = bits | 0x00400000u;                      // rounding could turn a NaN into Inf
  bits = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  out->bits = static_cast<uint16_t>(bits >> 16);
}
ONNX_CBP_INLINE void Store(float value, Float16* out) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Every case is computed, and masks choose one: GCC 12 does not vectorize branches or choices here.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 moves the last place of a subnormal half to the last place of the float.
  const uint32_t subnormal = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);
  const uint32_t is_subnormal = MaskIfLess(magnitude, 0x38800000u);
  const uint32_t is_infinite = MaskIfLess(0x477fefffu, magnitude);  // rounds to 65536 or more
  const uint32_t is_nan = MaskIfLess(0x7f800000u, magnitude);
  const uint32_t finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  const uint32_t half = (finite & ~is_infinite) | (0x7c00u & is_infinite) | (0x0200u & is_nan);
  out->bits = static_cast<uint16_t>(half | sign);
}
ONNX_CBP_INLINE void Store(double value, BFloat16* out) { Store(static_cast<float>(value), out); }
ONNX_CBP_INLINE void Store(double value, Float16* out) { Store(static_cast<float>(value), out); }

// The type in which elementwise kernels compute: double if data or statistics are double, otherwise float.
template <typename T, typename U>
using ComputeType = std::conditional_t<std::is_same_v<T, double> || std::is_same_v<U, double>, double, float>;

// The largest value in V that T rounds to zero: half of T's smallest number, unless V itself cannot tell this from
// zero.
template <typename T, typename V>
ONNX_CBP_INLINE constexpr V RoundsToZero() {
  return static_cast<V>(std::is_same_v<T, Float16>                              ? 0x1p-25
                        : std::is_same_v<T, BFloat16>                           ? 0x1p-134
                        : std::is_same_v<T, float> && std::is_same_v<V, double> ? 0x1p-150
                                                                                : 0.0);
}

// F(T, V) for every data type T and every type V in which kernels compute with it.
#define ONNX_CBP_FOR_EACH_TYPES(F) \
  F(float, float)                  \
  F(float, double)                 \
  F(double, double)                \
  F(Float16, float)                \
  F(Float16, double)               \
  F(BFloat16, float)               \
  F(BFloat16, double)

// Calls f(T{}) with the data type of this number; false if there is none.
template <typename F>
bool DispatchData(int type, F&& f) {
  switch (type) {
    case kFloat:
      f(float{});
      return true;
    case kDouble:
      f(double{});
      return true;
    case kFloat16:
      f(Float16{});
      return true;
    case kBFloat16:
      f(BFloat16{});
      return true;
    default:
      return false;
  }
}

// Calls f(U{}) with the statistics type of this number; false if there is none.
template <typename F>
bool DispatchStatistics(int type, F&& f) {
  switch (type) {
    case kFloat:
      f(float{});
      return true;
    case kDouble:
      f(double{});
      return true;
    default:
      return false;
  }
}

// Calls f(T{}, U{}); false if a type is unknown.
template <typename F>
bool Dispatch(int data, int statistics, F&& f) {
  bool known = false;
  return DispatchData(data, [&](auto t) { known = DispatchStatistics(statistics, [&](auto u) { f(t, u); }); }) && known;
}

}  // namespace onnx_cbp
