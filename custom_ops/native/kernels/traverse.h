// Walking over a block: plane by plane or, where planes are short, row by row.
#pragma once

#include <type_traits>
#include <vector>

#include "partition.h"

namespace onnx_cbp {

// Calls plane(channel within the block, offset of its first element) for every plane of the block.
template <typename F>
void ForEachPlane(const Layout& layout, const Block& block, F&& plane) {
  for (int64_t outer = block.outer_begin; outer < block.outer_end; ++outer) {
    for (int64_t c = 0; c < block.channels(); ++c) {
      plane(c, (outer * layout.channels + block.channel_begin + c) * layout.inner + block.inner_begin);
    }
  }
}

// Calls row(offset of its first element) for every row of the block: channels * inner neighbouring
// elements.
template <typename F>
void ForEachRow(const Layout& layout, const Block& block, F&& row) {
  for (int64_t outer = block.outer_begin; outer < block.outer_end; ++outer) {
    row((outer * layout.channels + block.channel_begin) * layout.inner);
  }
}

// Calls rows(std::integral_constant of how many, offset of the first) for neighbouring rows of the
// block, as many at once as the compiler can unroll: sums that lie in memory are then read and
// written once for all of them.
template <typename F>
void ForEachRowGroup(const Layout& layout, const Block& block, F&& rows) {
  constexpr int64_t kGroup = 8;
  const auto offset = [&](int64_t outer) { return (outer * layout.channels + block.channel_begin) * layout.inner; };
  int64_t outer = block.outer_begin;
  for (; outer + kGroup <= block.outer_end; outer += kGroup) {
    rows(std::integral_constant<int64_t, kGroup>{}, offset(outer));
  }
  for (; outer < block.outer_end; ++outer) rows(std::integral_constant<int64_t, 1>{}, offset(outer));
}

// One value a channel, repeated for every element of a row.
template <typename V>
std::vector<V> RepeatForRow(const Layout& layout, const Block& block, const V* per_channel) {
  std::vector<V> row(static_cast<size_t>(block.channels() * layout.inner));
  for (size_t i = 0; i < row.size(); ++i) row[i] = per_channel[static_cast<int64_t>(i) / layout.inner];
  return row;
}

// The same of one member of a channel's coefficients: rows of members of their own are what vectors are loaded from.
template <typename C, typename V>
std::vector<V> RepeatForRow(const Layout& layout, const Block& block, const C* per_channel, V C::* member) {
  std::vector<V> row(static_cast<size_t>(block.channels() * layout.inner));
  for (size_t i = 0; i < row.size(); ++i) row[i] = per_channel[static_cast<int64_t>(i) / layout.inner].*member;
  return row;
}

}  // namespace onnx_cbp
