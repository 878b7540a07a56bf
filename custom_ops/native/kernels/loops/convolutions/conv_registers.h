// How much of a convolution fits the target's registers.
#pragma once

#include "../../convolutions/conv_plan.h"
#include "../../processors/simd.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// How many vectors hold one block of output channels.
template <typename V>
constexpr int kBlockVectors = static_cast<int>(kConvLanes / kWidth<V>);

// How many registers hold sums; the others hold factors.
#if defined(ONNX_CBP_AVX512)
constexpr int kSums = 28;
#elif defined(__AVX2__)
constexpr int kSums = 12;
#elif defined(__ARM_NEON)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

// How many blocks are computed together: as many as two vectors hold, but at least one.
template <typename V>
constexpr int kBlocksTogether = kBlockVectors<V> < 2 ? 2 / kBlockVectors<V> : 1;

// How many neighbours fit the registers, if their sums for kBlocks blocks are computed together.
template <int kBlocks, typename V>
constexpr int NeighboursTogether() {
  constexpr int kFit = kSums / (kBlocks * kBlockVectors<V>);
  return kFit > 16 ? 16 : kFit < 1 ? 1 : kFit;
}

// The sums of kCount neighbours (pixels, or channels) for kBlocks blocks of outputs.
template <int kBlocks, int kCount, typename V>
struct RegisterTile {
  static constexpr int kVectors = kBlocks * kBlockVectors<V>;
  VectorOf<V> sums[kCount][kVectors];

  ONNX_CBP_INLINE RegisterTile() {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[i][v] = VectorOf<V>{};
    }
  }

  // Adds the products of each neighbour with the factors of all blocks, which lie block_pitch apart.
  ONNX_CBP_INLINE void Add(const V* neighbours, const V* factors, int64_t block_pitch) {
    // The fewer stay in registers, and the others take one register, one after the other.
    if constexpr (kCount < kVectors) {
      VectorOf<V> neighbour[kCount];
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) neighbour[i] = Broadcast<V>(neighbours[i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const VectorOf<V> factor = LoadVector<V>(factors + At(v, block_pitch));
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i) sums[i][v] = MulAdd(neighbour[i], factor, sums[i][v]);
      }
    } else {
      VectorOf<V> factor[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) factor[v] = LoadVector<V>(factors + At(v, block_pitch));
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) {
        const VectorOf<V> neighbour = Broadcast<V>(neighbours[i]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[i][v] = MulAdd(neighbour, factor[v], sums[i][v]);
      }
    }
  }

  // Writes the sums, or adds them to what is there: [block][neighbour][lane].
  ONNX_CBP_INLINE void Store(bool add, V* out, int64_t block_pitch) const {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        V* to = out + At(v, block_pitch) + i * kConvLanes;
        StoreVector<false>(add ? LoadVector<V>(to) + sums[i][v] : sums[i][v], to);
      }
    }
  }

 private:
  // Where a vector of all blocks lies.
  static ONNX_CBP_INLINE int64_t At(int v, int64_t block_pitch) {
    return v / kBlockVectors<V> * block_pitch + v % kBlockVectors<V> * kWidth<V>;
  }
};

// A number that the compiler knows.
template <int kNumber>
struct Known {
  static constexpr int value = kNumber;
};

// Calls call(Known<count>()), for a count from 1 to kMost that is known only at run time.
template <int kMost, typename Call>
ONNX_CBP_INLINE void WithKnown(int64_t count, const Call& call) {
  if constexpr (kMost > 1) {
    if (count < kMost) return WithKnown<kMost - 1>(count, call);
  }
  call(Known<kMost>());
}

// Divides `count` neighbours into tiles of at most kMost, all of the same size or of one less, and calls
// call(begin, Known<size>()) for each.
template <int kMost, typename Call>
ONNX_CBP_INLINE void ForEachTile(int64_t count, const Call& call) {
  const int64_t tiles = (count + kMost - 1) / kMost;
  for (int64_t t = 0, begin = 0; t < tiles; ++t) {
    const int64_t size = count / tiles + (t < count % tiles);
    WithKnown<kMost>(size, [&](auto known) { call(begin, known); });
    begin += size;
  }
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
