// Computes a tensor from others, element by element.
#pragma once

#include "../../dividing/traverse.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// How many elements come before the first one that a whole vector may be streamed to.
template <typename V, typename T>
ONNX_CBP_INLINE int64_t ElementsToAligned(const T* out) {
  return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T)) & (kWidth<V> - 1);
}

// out[i] = make(i, load): make computes element i and those after it, as many as load reads.
template <bool kStream, typename V, typename T, typename F>
ONNX_CBP_INLINE void MapRun(int64_t count, T* out, F&& make) {
  int64_t i = 0;
  const auto part = [&](int64_t elements) {
    StorePart<V>(make(i, Part<V>{static_cast<int>(elements)}), out + i, static_cast<int>(elements));
    i += elements;
  };
  if constexpr (kStream) {
    const int64_t head = ElementsToAligned<V>(out);
    if (head > 0) part(head < count ? head : count);
  }
  for (; i + kWidth<V> <= count; i += kWidth<V>) StoreVector<kStream>(make(i, Whole<V>{}), out + i);
  if (i < count) part(count - i);
}

// The first count lanes of one vector, and the other lanes of another.
template <typename V>
ONNX_CBP_INLINE VectorOf<V> Join(VectorOf<V> first, VectorOf<V> second, int64_t count) {
  VectorOf<V> lane;
  for (int i = 0; i < kWidth<V>; ++i) lane[i] = static_cast<V>(i);
  return lane < Broadcast(static_cast<V>(count)) ? first : second;
}

// out[i] = of_channel(channel within the piece)(i, load), for a piece that is walked by planes: this computes element i
// and those after it. Planes that are neighbours in memory are written as one run of aligned vectors. Where a plane
// ends, a vector also holds the beginning of the next plane: only so is every cache line written at once.
template <bool kStream, typename V, typename T, typename F>
ONNX_CBP_INLINE void MapByPlanes(const Layout& layout, const Piece& piece, T* out, F&& of_channel) {
  for (int64_t outer = piece.outer_begin; outer < piece.outer_end; ++outer) {
    int64_t at = (outer * layout.channels + piece.channel_begin) * layout.inner + piece.inner_begin;
    int64_t end = at + piece.inner();
    const auto part = [&](const auto& make, int64_t elements) {
      const int count = static_cast<int>(elements);
      StorePart<V>(make(at, Part<V>{count}), out + at, count);
      at += elements;
    };
    const int64_t head = ElementsToAligned<V>(out + at);
    if (head > 0) part(of_channel(int64_t{0}), head < piece.inner() ? head : piece.inner());
    for (int64_t c = 0; c < piece.channels(); ++c, end += layout.inner) {
      const auto make = of_channel(c);
      for (; at + kWidth<V> <= end; at += kWidth<V>) StoreVector<kStream>(make(at, Whole<V>{}), out + at);
      if (at == end) continue;
      if (c + 1 < piece.channels()) {
        const auto next = of_channel(c + 1);
        StoreVector<kStream>(Join<V>(make(at, Whole<V>{}), next(at, Whole<V>{}), end - at), out + at);
        at += kWidth<V>;
      } else {
        part(make, end - at);
      }
    }
  }
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
