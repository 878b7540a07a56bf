// Walking over a block. Planes are walked one by one where they are long enough to fill vectors; where they are short
// (7x7 is long; NHWC, whose planes have one element, is short) a row of all channels is walked at once.
#pragma once

#include <vector>

#include "partition.h"

namespace onnx_cbp {

constexpr int64_t kShortPlane = 16;

inline bool HasShortPlanes(const Layout& layout) { return layout.inner < kShortPlane; }

// Calls plane(channel within the block, offset of its first element) for every plane of the block.
template <typename F>
void ForEachPlane(const Layout& layout, const Block& block, F&& plane) {
  for (int64_t outer = block.outer_begin; outer < block.outer_end; ++outer) {
    for (int64_t c = 0; c < block.channels(); ++c) {
      plane(c, (outer * layout.channels + block.channel_begin + c) * layout.inner + block.inner_begin);
    }
  }
}

// Calls row(offset of its first element) for every row of the block: channels * inner neighbouring elements.
template <typename F>
void ForEachRow(const Layout& layout, const Block& block, F&& row) {
  for (int64_t outer = block.outer_begin; outer < block.outer_end; ++outer) {
    row((outer * layout.channels + block.channel_begin) * layout.inner);
  }
}

// One value a channel, repeated for every element of a row.
template <typename V>
std::vector<V> RepeatForRow(const Layout& layout, const Block& block, const V* per_channel) {
  std::vector<V> row(static_cast<size_t>(block.channels() * layout.inner));
  for (size_t i = 0; i < row.size(); ++i) row[i] = per_channel[static_cast<int64_t>(i) / layout.inner];
  return row;
}

}  // namespace onnx_cbp
