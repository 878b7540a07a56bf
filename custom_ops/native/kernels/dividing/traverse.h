// Walks over a piece: plane by plane, or row by row if planes are short.
#pragma once

#include "../processors/simd.h"
#include "partition.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// How many planes of a channel are walked together. A channel's sums lie in memory, and are read and written once for
// all of these planes. More than four would be slower: their distance is often a multiple of the distance at which
// addresses share a place in the cache.
constexpr int64_t kPlanes = 4;

// Calls planes(channel within the piece, how many, offset of the first) for up to kPlanes planes of a channel, which
// lie layout.stride() apart.
template <typename F>
ONNX_CBP_INLINE void ForEachPlaneGroup(const Layout& layout, const Piece& piece, F&& planes) {
  for (int64_t outer = piece.outer_begin; outer < piece.outer_end; outer += kPlanes) {
    const int64_t left = piece.outer_end - outer;
    for (int64_t c = 0; c < piece.channels(); ++c) {
      planes(c, left < kPlanes ? left : kPlanes,
             (outer * layout.channels + piece.channel_begin + c) * layout.inner + piece.inner_begin);
    }
  }
}

// A piece as rows of neighbouring elements, each of which begins with the piece's first channel. Short rows that lie
// one after the other are joined to longer ones; then the last may be shorter.
struct Rows {
  // No row is longer than kRow. Vectors may be read and written beyond the last element of an array of this size.
  static constexpr int64_t kSpace = Partition::kRow + 2 * kLanes;

  ONNX_CBP_INLINE Rows(const Layout& layout, const Piece& piece)
      : inner(layout.inner),
        channels(piece.channels()),
        stride(layout.channels * layout.inner),
        begin((piece.outer_begin * layout.channels + piece.channel_begin) * layout.inner) {
    constexpr int64_t kShort = 128, kLong = 512;
    const int64_t outer = piece.outer_end - piece.outer_begin;
    if (channels == layout.channels) {
      // Longer rows take less time to walk and more time to prepare. Near the square root of all elements, both times
      // are short.
      const auto grows = [&](int64_t length) { return length < kShort || length * length < outer * stride; };
      while (2 * repeats <= outer && 2 * repeats * stride <= kLong && grows(repeats * stride)) repeats *= 2;
    }
    count = outer / repeats;
    rest = outer % repeats * stride;
    stride *= repeats;
    length = channels * inner * repeats;
  }

  // Whether each row begins where the one before ends. Such rows are best read in the order of memory. Rows that lie
  // apart are best read several at a time, so that an element's sums are read and written once for all of them.
  ONNX_CBP_INLINE bool contiguous() const { return stride == length; }

  // Writes a value per channel to every element of a row that belongs to this channel.
  template <typename V, typename F>
  ONNX_CBP_INLINE void Spread(V* row, F&& value) const {
    for (int64_t repeat = 0; repeat < repeats; ++repeat) {
      for (int64_t c = 0; c < channels; ++c) {
        const V of_channel = value(c);
        for (int64_t i = 0; i < inner; ++i) *row++ = of_channel;
      }
    }
  }

  // For each channel, the sum of its elements in a row.
  ONNX_CBP_INLINE void Sum(const double* row, double* per_channel) const {
    for (int64_t c = 0; c < channels; ++c) per_channel[c] = 0.0;
    for (int64_t repeat = 0; repeat < repeats; ++repeat, row += channels * inner) {
      if (inner == 1) {
        for (int64_t c = 0; c < channels; ++c) per_channel[c] += row[c];
      } else if (inner < 8) {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t i = 0; i < inner; ++i) per_channel[c] += row[c * inner + i];
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) per_channel[c] += SumOf(row + c * inner, inner);
      }
    }
  }

  int64_t inner, channels;
  int64_t repeats = 1;
  int64_t length, count, stride, begin;
  int64_t rest;  // elements of the last row, if it is shorter
};

// Calls row(offset of its first element, length) for every row.
template <typename F>
ONNX_CBP_INLINE void ForEachRow(const Rows& rows, F&& row) {
  for (int64_t i = 0; i < rows.count; ++i) row(rows.begin + i * rows.stride, rows.length);
  if (rows.rest > 0) row(rows.begin + rows.count * rows.stride, rows.rest);
}

// Calls rows(how many, offset of the first, length) for groups of at most `group` neighbouring rows.
template <typename F>
ONNX_CBP_INLINE void ForEachRowGroup(const Rows& all, int64_t group, F&& rows) {
  for (int64_t row = 0; row < all.count; row += group) {
    const int64_t left = all.count - row;
    rows(left < group ? left : group, all.begin + row * all.stride, all.length);
  }
  if (all.rest > 0) rows(1, all.begin + all.count * all.stride, all.rest);
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
