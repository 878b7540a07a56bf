// Sums in a fixed number of lanes. The order of additions is written down, so that vectors of any width give the same
// bits; the lanes are GCC's vectors, because it keeps those in registers where it spills an array.
#pragma once

#include <cstdint>
#include <cstring>

#include "element_types.h"

// A vector must not be passed between functions compiled for different instruction sets: always inline.
#define ONNX_CBP_INLINE inline __attribute__((always_inline))

namespace onnx_cbp {

constexpr int kVector = 8;
constexpr int kVectors = 2;
constexpr int kLanes = kVector * kVectors;

typedef double Doubles __attribute__((vector_size(sizeof(double) * kVector)));
typedef float Floats __attribute__((vector_size(sizeof(float) * kVector)));

// Eight neighbouring elements, in double.
template <typename T>
ONNX_CBP_INLINE Doubles LoadVector(const T* elements) {
  Floats floats;
  for (int i = 0; i < kVector; ++i) floats[i] = Load(elements[i]);
  return __builtin_convertvector(floats, Doubles);
}
template <>
ONNX_CBP_INLINE Doubles LoadVector(const float* elements) {
  Floats floats;
  std::memcpy(&floats, elements, sizeof floats);
  return __builtin_convertvector(floats, Doubles);
}
template <>
ONNX_CBP_INLINE Doubles LoadVector(const double* elements) {
  Doubles doubles;
  std::memcpy(&doubles, elements, sizeof doubles);
  return doubles;
}

ONNX_CBP_INLINE void StoreVector(const Doubles& doubles, double* elements) {
  std::memcpy(elements, &doubles, sizeof doubles);
}

struct Lanes {
  Doubles vectors[kVectors] = {};

  // From and to memory of any alignment: not every allocator keeps that of a vector.
  static ONNX_CBP_INLINE Lanes Load(const double* lanes) {
    Lanes loaded;
    std::memcpy(loaded.vectors, lanes, sizeof loaded.vectors);
    return loaded;
  }
  ONNX_CBP_INLINE void Save(double* lanes) const { std::memcpy(lanes, vectors, sizeof vectors); }

  // Adds to one lane.
  void Add(int lane, double value) { vectors[lane / kVector][lane % kVector] += value; }

  double Sum() const {
    double halves[kLanes];
    std::memcpy(halves, vectors, sizeof halves);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) halves[i] += halves[i + width];
    }
    return halves[0];
  }
};

// Calls vector(which of the lanes' vectors, index of its first element) for whole vectors in [0, count), and
// scalar(lane, index) for the rest.
template <typename V, typename S>
inline void ForEachLane(int64_t count, V&& vector, S&& scalar) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int which = 0; which < kVectors; ++which) vector(which, i + which * kVector);
  }
  for (int lane = 0; i + lane < count; ++lane) scalar(lane, i + lane);
}

}  // namespace onnx_cbp
