// Turns planes of channels into vectors of channels: the elements of kWindowLanes channels at one place become
// neighbours.
#pragma once

#include <utility>

#include "../../convolutions/window_plan.h"
#include "../../processors/simd.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// One step of a transposition: blocks of kSide elements change places between two rows.
template <int kSide, typename Vector, int... kIndices>
ONNX_CBP_INLINE void Exchange(Vector* a, Vector* b, std::integer_sequence<int, kIndices...>) {
  constexpr int kSize = sizeof...(kIndices);
  const Vector first = *a, second = *b;
  *a = __builtin_shufflevector(first, second, ((kIndices & kSide) != 0 ? kSize + kIndices - kSide : kIndices)...);
  *b = __builtin_shufflevector(first, second, ((kIndices & kSide) != 0 ? kSize + kIndices : kIndices + kSide)...);
}

template <int kSide, typename V>
ONNX_CBP_INLINE void ExchangeAll(VectorOf<V> (&rows)[kWidth<V>]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<V>; ++i) {
    if ((i & kSide) == 0) Exchange<kSide>(&rows[i], &rows[i + kSide], std::make_integer_sequence<int, kWidth<V>>{});
  }
  if constexpr (kSide > 1) ExchangeAll<kSide / 2, V>(rows);
}

// Transposes a square: rows become columns.
template <typename V>
ONNX_CBP_INLINE void Transpose(VectorOf<V> (&rows)[kWidth<V>]) {
  ExchangeAll<kWidth<V> / 2, V>(rows);
}

// The channels of a piece: where the plane of each lane begins. Lanes without a channel get the plane of the last
// channel.
template <typename T>
struct LanePlanes {
  const T* lanes[kWindowLanes];

  ONNX_CBP_INLINE LanePlanes(const T* tensor, int64_t first, int64_t results, int64_t multiplier, int64_t plane) {
    for (int64_t i = 0; i < kWindowLanes; ++i) {
      const int64_t result = first + i < results ? first + i : results - 1;
      lanes[i] = tensor + result / multiplier * plane;
    }
  }
};

// Copies `count` neighbouring elements of each lane, from `begin` on: element i goes to out[place(i)], with its lanes
// next to each other.
template <typename V, typename T, typename Place>
ONNX_CBP_INLINE void CopyToLanes(const LanePlanes<T>& planes, int64_t begin, int64_t count, V* out, Place&& place) {
  constexpr int64_t kW = kWidth<V>;
  if (count < kW) {
    for (int64_t i = 0; i < count; ++i) {
      V* to = out + place(i) * kWindowLanes;
      for (int64_t lane = 0; lane < kWindowLanes; ++lane) to[lane] = Single<V>{}(planes.lanes[lane] + begin + i);
    }
    return;
  }
  for (int64_t at = 0; at < count; at += kW) {
    const int64_t i = at + kW <= count ? at : count - kW;  // the last vector may overlap the one before it
    for (int64_t lane = 0; lane < kWindowLanes; lane += kW) {
      VectorOf<V> rows[kW];
#pragma GCC unroll 16
      for (int64_t r = 0; r < kW; ++r) rows[r] = LoadVector<V>(planes.lanes[lane + r] + begin + i);
      Transpose<V>(rows);
#pragma GCC unroll 16
      for (int64_t r = 0; r < kW; ++r) StoreVector<false>(rows[r], out + place(i + r) * kWindowLanes + lane);
    }
  }
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
