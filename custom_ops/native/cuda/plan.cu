#include <algorithm>
#include <numeric>

#include "plan.h"

namespace onnx_cbp::cuda {
namespace {

// Shorter planes go as Tiles. A plane from here on fills most of the sectors of memory that it touches.
constexpr int64_t kLongPlane = 16;
// Blocks that are to be had for every multiprocessor, and not more: a multiple of the two or three that it holds at a
// time, so that all end together, and few enough for what each does once to be little of its time.
constexpr int64_t kBlocksPerMultiprocessor = 12;
// What a thread should do at least, so that what a block does once is worth it.
constexpr int64_t kLeastUnits = 16;
constexpr int64_t kLeastRows = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// How many of `whole` things a part has, at least so many, where a part takes so many blocks.
int64_t PerPart(const Device& device, int64_t whole, int64_t least, int64_t blocks) {
  const int64_t parts = std::max<int64_t>(1, device.multiprocessors * kBlocksPerMultiprocessor / blocks);
  return std::max(CeilDiv(whole, parts), std::min(whole, least));
}

Planes MakePlanes(const Device& device, const Layout& layout, int width) {
  Planes planes{};
  planes.channels = layout.channels;
  planes.planes = layout.outer;
  planes.inner = layout.inner / width;
  planes.width = width;
  planes.per_part = PerPart(device, planes.planes * planes.inner, kThreads * kLeastUnits, layout.channels);
  planes.parts = CeilDiv(planes.planes * planes.inner, planes.per_part);
  planes.step_planes = kThreads / planes.inner;
  planes.step_units = kThreads % planes.inner;
  return planes;
}

Tiles MakeTiles(const Device& device, const Layout& layout, int vector_width) {
  Tiles tiles{};
  tiles.size = layout.outer * layout.channels * layout.inner;
  tiles.period = layout.channels * layout.inner;
  tiles.channels = layout.channels;
  tiles.inner = layout.inner;
  // So many of the tensor's rows are whole vectors; where there are fewer, elements go one by one.
  const int64_t whole = vector_width / std::gcd<int64_t>(tiles.period, vector_width);
  tiles.width = whole <= layout.outer ? vector_width : 1;
  const int64_t step = tiles.width == 1 ? 1 : whole;
  const int64_t fit = std::min(layout.outer, kWarp * tiles.width / tiles.period);
  tiles.columns = tiles.period * std::max(step, fit / step * step);
  tiles.rows = CeilDiv(tiles.size, tiles.columns);
  tiles.across = CeilDiv(tiles.columns, kWarp * tiles.width);
  tiles.per_part = PerPart(device, tiles.rows, Tiles::kRowsAtOnce * kLeastRows, tiles.across);
  tiles.parts = CeilDiv(tiles.rows, tiles.per_part);
  return tiles;
}

}  // namespace

Plan MakePlan(const Device& device, const Layout& layout, int vector_width, bool aligned) {
  Plan plan{};
  plan.by_plane = layout.inner >= kLongPlane;
  if (plan.by_plane) {
    plan.planes = MakePlanes(device, layout, aligned && layout.inner % vector_width == 0 ? vector_width : 1);
  } else {
    plan.tiles = MakeTiles(device, layout, aligned ? vector_width : 1);
  }
  return plan;
}

int64_t PartialBytes(const Device& device, const Layout& layout) {
  if (layout.empty()) return 0;
  int64_t most = 0;
  for (const int width : {1, 2, 4}) {
    const Plan plan = MakePlan(device, layout, width, true);
    most = std::max(most, plan.by_plane ? plan.planes.partials() : plan.tiles.partials());
  }
  return most * static_cast<int64_t>(sizeof(Pair));
}

}  // namespace onnx_cbp::cuda
