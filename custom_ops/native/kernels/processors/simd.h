// The vectors of the target for which a file is compiled. Sums have a fixed number of lanes and a fixed order, so the
// targets with fused multiply-adds (avx2, avx512) give the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../element_types.h"
#include "targets.h"

// A file that is faster with half-wide vectors defines this before it includes simd.h.
#if defined(__AVX512F__) && !defined(ONNX_CBP_HALF_VECTORS)
#define ONNX_CBP_AVX512
#endif

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

#if defined(ONNX_CBP_AVX512)
constexpr int kFloats = 16;
#elif defined(__AVX2__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
constexpr int kDoubles = kFloats / 2;

typedef float Floats __attribute__((vector_size(sizeof(float) * kFloats)));
typedef double Doubles __attribute__((vector_size(sizeof(double) * kDoubles)));

// The vector for values that are computed in V: float or double.
template <typename V>
using VectorOf = std::conditional_t<std::is_same_v<V, double>, Doubles, Floats>;
template <typename V>
constexpr int kWidth = std::is_same_v<V, double> ? kDoubles : kFloats;

template <typename V>
ONNX_CBP_INLINE VectorOf<V> Broadcast(V value) {
  return value - VectorOf<V>{};
}

// a * b + c, rounded once if the processor can do so.
ONNX_CBP_INLINE Floats MulAdd(Floats a, Floats b, Floats c) {
#if defined(ONNX_CBP_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
ONNX_CBP_INLINE Doubles MulAdd(Doubles a, Doubles b, Doubles c) {
#if defined(ONNX_CBP_AVX512)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__ARM_NEON)
  return (Doubles)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

ONNX_CBP_INLINE float MulAdd(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_NEON)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
ONNX_CBP_INLINE double MulAdd(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_NEON)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// a + b on the multiplying unit, for code that keeps the adding unit busy.
struct Adder {
  // The compiler must not know that the factor is 1, or it would emit an addition.
  ONNX_CBP_INLINE Adder() {
#if defined(__FMA__)
    asm("" : "+v"(one));
#endif
  }
  ONNX_CBP_INLINE Doubles operator()(Doubles a, Doubles b) const { return MulAdd(a, one, b); }
  Doubles one = Broadcast(1.0);
};

// The first and the second half of a vector, in double.
ONNX_CBP_INLINE void Widen(Floats floats, Doubles* low, Doubles* high) {
#if defined(ONNX_CBP_AVX512)
  *low = _mm512_cvtps_pd(_mm512_castps512_ps256(floats));
  *high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(floats, 1));
#elif defined(__AVX2__)
  *low = _mm256_cvtps_pd(_mm256_castps256_ps128(floats));
  *high = _mm256_cvtps_pd(_mm256_extractf128_ps(floats, 1));
#else
  for (int i = 0; i < kDoubles; ++i) {
    (*low)[i] = static_cast<double>(floats[i]);
    (*high)[i] = static_cast<double>(floats[i + kDoubles]);
  }
#endif
}

// Loads kWidth<V> neighbouring elements.
template <typename V, typename T>
ONNX_CBP_INLINE VectorOf<V> LoadVector(const T* elements) {
  VectorOf<V> vector;
  if constexpr (std::is_same_v<V, T>) {
    std::memcpy(&vector, elements, sizeof vector);
#if defined(ONNX_CBP_AVX512)
  } else if constexpr (std::is_same_v<V, double> && std::is_same_v<T, float>) {
    vector = _mm512_cvtps_pd(_mm256_loadu_ps(elements));
  } else if constexpr (std::is_same_v<V, float> && std::is_same_v<T, Float16>) {
    vector = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements)));
  } else if constexpr (std::is_same_v<V, float> && std::is_same_v<T, BFloat16>) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements));
    vector = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  } else if constexpr (std::is_same_v<T, Float16>) {
    vector = _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(elements))));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(elements));
    vector = _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
#elif defined(__AVX2__)
  } else if constexpr (std::is_same_v<V, double> && std::is_same_v<T, float>) {
    vector = _mm256_cvtps_pd(_mm_loadu_ps(elements));
  } else if constexpr (std::is_same_v<V, float> && std::is_same_v<T, Float16>) {
    vector = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(elements)));
  } else if constexpr (std::is_same_v<V, float> && std::is_same_v<T, BFloat16>) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(elements));
    vector = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  } else if constexpr (std::is_same_v<T, Float16>) {
    vector = _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(elements))));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(elements));
    vector = _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16)));
#endif
  } else {
    for (int i = 0; i < kWidth<V>; ++i) vector[i] = static_cast<V>(Load(elements[i]));
  }
  return vector;
}

// Loads the first count elements of a vector; the other lanes get the filling.
template <typename V, typename T>
ONNX_CBP_INLINE VectorOf<V> LoadPart(const T* elements, int count, VectorOf<V> filling) {
#if defined(ONNX_CBP_AVX512)
  if constexpr (std::is_same_v<V, float> && std::is_same_v<T, float>) {
    return _mm512_mask_loadu_ps(filling, static_cast<__mmask16>((1u << count) - 1), elements);
  } else if constexpr (std::is_same_v<V, double> && std::is_same_v<T, double>) {
    return _mm512_mask_loadu_pd(filling, static_cast<__mmask8>((1u << count) - 1), elements);
  } else if constexpr (std::is_same_v<T, float>) {
    const __mmask8 mask = static_cast<__mmask8>((1u << count) - 1);
    return _mm512_mask_cvtps_pd(filling, mask, _mm256_maskz_loadu_ps(mask, elements));
  } else if constexpr (std::is_same_v<V, float>) {
    const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
    T all[kFloats];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(all), _mm256_maskz_loadu_epi16(mask, elements));
    return _mm512_mask_mov_ps(filling, mask, LoadVector<float>(all));
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<V, float> && std::is_same_v<T, float>) {
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_blendv_ps(filling, _mm256_maskload_ps(elements, mask), _mm256_castsi256_ps(mask));
  } else if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    const __m256i mask = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
    VectorOf<V> vector;
    if constexpr (std::is_same_v<T, double>) {
      vector = _mm256_maskload_pd(elements, mask);
    } else {
      const __m128i narrow = _mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3));
      vector = _mm256_cvtps_pd(_mm_maskload_ps(elements, narrow));
    }
    return _mm256_blendv_pd(filling, vector, _mm256_castsi256_pd(mask));
  }
#endif
  // Through memory, element by element: numbers of 16 bits have no masked access here.
  V lanes[kWidth<V>];
  std::memcpy(lanes, &filling, sizeof lanes);
  for (int i = 0; i < count; ++i) lanes[i] = static_cast<V>(Load(elements[i]));
  return LoadVector<V>(lanes);
}

// Ways to read, as arguments: a whole vector, the first elements of one, or a single element.
template <typename V>
struct Whole {
  template <typename T>
  ONNX_CBP_INLINE VectorOf<V> operator()(const T* elements) const {
    return LoadVector<V>(elements);
  }
};
template <typename V>
struct Part {
  int count;
  template <typename T>
  ONNX_CBP_INLINE VectorOf<V> operator()(const T* elements) const {
    return LoadPart<V>(elements, count, VectorOf<V>{});
  }
};
template <typename V>
struct Single {
  template <typename T>
  ONNX_CBP_INLINE V operator()(const T* element) const {
#if defined(__F16C__)
    if constexpr (std::is_same_v<T, Float16>) return static_cast<V>(_cvtsh_ss(element->bits));
#endif
    return static_cast<V>(onnx_cbp::Load(*element));
  }
};

// Rounds a vector of values to the elements' type, and stores it. A stream (kStream) writes past the caches, and needs
// an aligned address. It is for tensors larger than the caches: a plain store would first read the line that it writes,
// and push out what is needed soon.
template <bool kStream, typename T>
ONNX_CBP_INLINE void StoreVector(Floats floats, T* elements) {
#if defined(ONNX_CBP_AVX512)
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (kStream) {
      _mm512_stream_ps(elements, floats);
    } else {
      _mm512_storeu_ps(elements, floats);
    }
  } else {
    __m256i bits;
    if constexpr (std::is_same_v<T, Float16>) {
      bits = _mm512_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
      const __m512i wide = _mm512_castps_si512(floats);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(wide, 16), _mm512_set1_epi32(1));
      const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(wide, _mm512_set1_epi32(0x7fff)), odd);
      // Rounding could turn a NaN into Inf: NaNs become quiet NaNs instead.
      const __mmask16 nan = _mm512_cmp_ps_mask(floats, floats, _CMP_UNORD_Q);
      const __m512i chosen = _mm512_mask_or_epi32(rounded, nan, wide, _mm512_set1_epi32(0x00400000));
      // Selects the upper half of every number.
      const __m512i halves = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21,
                                              19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
      bits = _mm512_castsi512_si256(_mm512_permutexvar_epi16(halves, chosen));
    }
    if constexpr (kStream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(elements), bits);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(elements), bits);
    }
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (kStream) {
      _mm256_stream_ps(elements, floats);
    } else {
      _mm256_storeu_ps(elements, floats);
    }
  } else {
    __m128i bits;
    if constexpr (std::is_same_v<T, Float16>) {
      bits = _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
      const __m256i wide = _mm256_castps_si256(floats);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(wide, 16), _mm256_set1_epi32(1));
      const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(wide, _mm256_set1_epi32(0x7fff)), odd);
      const __m256i quiet = _mm256_or_si256(wide, _mm256_set1_epi32(0x00400000));
      const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(floats, floats, _CMP_UNORD_Q));
      const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
      bits = _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
    }
    if constexpr (kStream) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(elements), bits);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(elements), bits);
    }
  }
#else
  for (int i = 0; i < kFloats; ++i) Store(floats[i], &elements[i]);
#endif
}
template <bool kStream, typename T>
ONNX_CBP_INLINE void StoreVector(Doubles doubles, T* elements) {
#if defined(ONNX_CBP_AVX512)
  if constexpr (kStream && std::is_same_v<T, double>) {
    _mm512_stream_pd(elements, doubles);
    return;
  }
#elif defined(__AVX2__)
  if constexpr (kStream && std::is_same_v<T, double>) {
    _mm256_stream_pd(elements, doubles);
    return;
  }
#endif
  if constexpr (std::is_same_v<T, double>) {
    std::memcpy(elements, &doubles, sizeof doubles);
  } else {
    for (int i = 0; i < kDoubles; ++i) Store(doubles[i], &elements[i]);
  }
}

// Stores the first count elements of a vector.
template <typename V, typename T>
ONNX_CBP_INLINE void StorePart(VectorOf<V> vector, T* elements, int count) {
#if defined(ONNX_CBP_AVX512)
  if constexpr (std::is_same_v<V, float> && std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(elements, static_cast<__mmask16>((1u << count) - 1), vector);
    return;
  } else if constexpr (std::is_same_v<V, float>) {
    T all[kFloats];
    StoreVector<false>(vector, all);
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(all));
    _mm256_mask_storeu_epi16(elements, static_cast<__mmask16>((1u << count) - 1), bits);
    return;
  }
#endif
  T lanes[kWidth<V>];
  StoreVector<false>(vector, lanes);
  for (int i = 0; i < count; ++i) elements[i] = lanes[i];
}

// Whether vectors of V that are rounded to T can be streamed. If not, StoreVector<true> is StoreVector<false>, and
// kernels need not be compiled twice.
#if defined(__AVX2__)
template <typename T, typename V>
constexpr bool kStreams = std::is_same_v<V, float> || std::is_same_v<T, double>;
#else
template <typename T, typename V>
constexpr bool kStreams = false;
#endif

// Other threads see streamed elements only after this.
ONNX_CBP_INLINE void FinishStreams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// How many numbers are added in float before the sum goes on in double. So few additions lose less than the rounding of
// the numbers themselves.
constexpr int64_t kFloatAdditions = 16;

// Sums in double, in lanes.
constexpr int kLanes = 16;

struct Lanes {
  static constexpr int kVectors = kLanes / kDoubles;
  Doubles vectors[kVectors] = {};

  // From and to memory of any alignment. Vector by vector: otherwise the compiler would keep them in memory.
  static ONNX_CBP_INLINE Lanes Load(const double* lanes) {
    Lanes loaded;
    for (int v = 0; v < kVectors; ++v) loaded.vectors[v] = LoadVector<double>(lanes + v * kDoubles);
    return loaded;
  }
  ONNX_CBP_INLINE void Save(double* lanes) const {
    for (int v = 0; v < kVectors; ++v) StoreVector<false>(vectors[v], lanes + v * kDoubles);
  }
};

// The sum of the lanes: adds the second half to the first, until one is left.
ONNX_CBP_INLINE double SumOf(Lanes lanes) {
  for (int half = Lanes::kVectors / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) lanes.vectors[v] += lanes.vectors[v + half];
  }
#if defined(ONNX_CBP_AVX512)
  const __m256d four = _mm512_castpd512_pd256(lanes.vectors[0]) + _mm512_extractf64x4_pd(lanes.vectors[0], 1);
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
#elif defined(__AVX2__)
  const __m256d four = lanes.vectors[0];
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
#else
  const Doubles two = lanes.vectors[0];
#endif
  return two[0] + two[1];
}

// The sum of `count` elements.
template <typename T>
ONNX_CBP_INLINE double SumOf(const T* elements, int64_t count) {
  Lanes sum;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int v = 0; v < Lanes::kVectors; ++v) sum.vectors[v] += LoadVector<double>(elements + i + v * kDoubles);
  }
  for (int v = 0; v < Lanes::kVectors; ++v, i += kDoubles) {
    if (count - i >= kDoubles) {
      sum.vectors[v] += LoadVector<double>(elements + i);
    } else if (count > i) {
      sum.vectors[v] += LoadPart<double>(elements + i, static_cast<int>(count - i), Doubles{});
    }
  }
  return SumOf(sum);
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
