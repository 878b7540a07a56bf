// Cuts a tensor into tasks. The cuts depend on the shape alone, so results are bit for bit the same for every number of
// threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../processors/targets.h"

namespace onnx_cbp {

// X seen as [outer, channels, inner]: the dimensions before, at and after the channel axis.
struct Layout {
  // A single channel becomes one long plane, however its elements are spread over the dimensions.
  Layout(int64_t outer_size, int64_t channel_count, int64_t inner_size)
      : outer(channel_count == 1 ? 1 : outer_size),
        channels(channel_count),
        inner(channel_count == 1 ? outer_size * inner_size : inner_size) {}

  int64_t outer;
  int64_t channels;
  int64_t inner;

  size_t size() const { return static_cast<size_t>(outer * channels * inner); }
  // From one plane of a channel to its next.
  ONNX_CBP_INLINE int64_t stride() const { return channels * inner; }
  ONNX_CBP_INLINE bool empty() const { return outer == 0 || channels == 0 || inner == 0; }
};

// Whether to walk by row. Planes are walked one by one if they are long enough to fill vectors. If not (in NHWC planes
// have one element), a whole row of channels is walked at once.
ONNX_CBP_INLINE bool WalksByRow(const Layout& layout) { return layout.inner < 32; }

// The part of a tensor that one task works on: some outer indices, some channels, and some elements of each plane.
struct Piece {
  int64_t outer_begin, outer_end;
  int64_t channel_begin, channel_end;
  int64_t inner_begin, inner_end;

  ONNX_CBP_INLINE int64_t channels() const { return channel_end - channel_begin; }
  ONNX_CBP_INLINE int64_t inner() const { return inner_end - inner_begin; }
  // Elements per channel.
  ONNX_CBP_INLINE int64_t count() const { return (outer_end - outer_begin) * inner(); }

  // One of `shares` pieces, each of which has about as many of the channels; one may have none.
  Piece share(int64_t index, int64_t shares) const {
    const auto channel = [&](int64_t i) { return channel_begin + channels() * i / shares; };
    return {outer_begin, outer_end, channel(index), channel(index + 1), inner_begin, inner_end};
  }
};

class Partition {
 public:
  // How many channels a piece has at most if it is walked by planes, and how many elements a row has at most otherwise.
  static constexpr int64_t kChannels = 64;
  static constexpr int64_t kRow = 1 << 10;

  explicit Partition(const Layout& layout) : Partition(layout, kChannels, RunOf(layout)) {}

  // For maps. Their results do not depend on where pieces begin, so runs are as long as possible.
  static Partition OfMap(const Layout& layout) { return Partition(layout, layout.channels, kElements); }

  int64_t tasks() const { return parts() * channel_pieces_; }
  // How many pieces share a channel; their partial results are merged in the order of their numbers.
  int64_t parts() const { return outer_pieces_ * inner_pieces_; }

  int64_t channel_pieces() const { return channel_pieces_; }
  int64_t channels_per_piece() const { return channels_per_piece_; }

  // How many neighbouring elements a piece has at most.
  int64_t run() const { return channels_per_piece_ * inner_per_piece_; }

  int64_t part(int64_t task) const { return task / channel_pieces_; }

  Piece piece(int64_t task) const {
    const int64_t channel = task % channel_pieces_ * channels_per_piece_;
    const int64_t inner = part(task) % inner_pieces_ * inner_per_piece_;
    const int64_t outer = part(task) / inner_pieces_ * outer_per_piece_;
    return {outer,   std::min(layout_.outer, outer + outer_per_piece_),
            channel, std::min(layout_.channels, channel + channels_per_piece_),
            inner,   std::min(layout_.inner, inner + inner_per_piece_)};
  }

  // How many elements per channel the pieces of a part have.
  int64_t count(int64_t part) const { return piece(part * channel_pieces_).count(); }

 private:
  static constexpr int64_t kElements = 1 << 17;
  // Memory is fastest with long runs of neighbouring elements. But when the sums of a group of channels are known, the
  // group is read again, and should still be in the caches: this is 1.05 to 1.15 times as fast with 64 and 128 samples.
  static constexpr int64_t kShortRun = 1 << 13, kLongRun = 1 << 15, kGroup = 1 << 20;

  static int64_t RunOf(const Layout& layout) {
    return std::max(kShortRun, std::min(kLongRun, kGroup / std::max<int64_t>(1, layout.outer)));
  }

  Partition(const Layout& layout, int64_t most_channels, int64_t run) : layout_(layout) {
    if (layout.empty()) return;
    inner_per_piece_ = std::min(layout.inner, kElements);
    // Limited, since every channel of a piece needs scratch memory.
    const int64_t channels = WalksByRow(layout) ? kRow / layout.inner
                                                : std::min(most_channels, std::max<int64_t>(1, run / inner_per_piece_));
    channels_per_piece_ = std::min(layout.channels, channels);
    const int64_t outer = std::max<int64_t>(1, kElements / (channels_per_piece_ * inner_per_piece_));
    outer_per_piece_ = std::min(layout.outer, outer);
    inner_pieces_ = CeilDiv(layout.inner, inner_per_piece_);
    channel_pieces_ = CeilDiv(layout.channels, channels_per_piece_);
    outer_pieces_ = CeilDiv(layout.outer, outer_per_piece_);
  }

  static int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

  Layout layout_;
  int64_t outer_per_piece_ = 0, channels_per_piece_ = 0, inner_per_piece_ = 0;
  int64_t outer_pieces_ = 0, channel_pieces_ = 0, inner_pieces_ = 0;
};

}  // namespace onnx_cbp
