// Chooses how to divide a tensor among blocks.
#include <algorithm>
#include <numeric>

#include "plan.h"

namespace onnx_cbp::cuda {
namespace {

// Planes with at least this many elements are walked as Planes: they fill most of the memory sectors that they touch.
// Shorter ones become Tiles.
constexpr int64_t kLongPlane = 16;
// How many blocks a launch should have on every GPU: 12 for each multiprocessor of an H100, a multiple of the two or
// three that it holds at a time. These are enough for the multiprocessors to end together, on GPUs of half or twice its
// size too. They are also so few that the fixed work of a block takes little of its time.
constexpr int64_t kBlocks = 12 * 132;
// How many units a thread should have at least, so that the fixed work of its block pays.
constexpr int64_t kLeastUnits = 16;
constexpr int64_t kLeastRows = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// How many of `all` units or rows a part has, at least `least`, if each part takes this many blocks.
int64_t PerPart(int64_t all, int64_t least, int64_t blocks) {
  const int64_t parts = std::max<int64_t>(1, kBlocks / blocks);
  return std::max(CeilDiv(all, parts), std::min(all, least));
}

Planes MakePlanes(const Layout& layout, int width) {
  Planes planes{};
  planes.channels = layout.channels;
  planes.planes = layout.outer;
  planes.inner = layout.inner / width;
  planes.width = width;
  planes.per_part = PerPart(planes.planes * planes.inner, kThreads * kLeastUnits, layout.channels);
  planes.parts = CeilDiv(planes.planes * planes.inner, planes.per_part);
  planes.step_planes = kThreads / planes.inner;
  planes.step_units = kThreads % planes.inner;
  return planes;
}

// How many rows of the tensor make one row of the matrix: a multiple of `step`, small, but large enough that nearly all
// lanes of a warp have columns. A row of 72 columns alone would leave 14 of 32 lanes idle.
int64_t RowsInOne(int64_t outer, int64_t period, int64_t step, int64_t columns_of_tile) {
  constexpr int64_t kMost = 16, kFewIdle = 16;  // at most a 16th of the lanes is idle
  int64_t best = step, idle_of_best = 0, columns_of_best = 0;
  for (int64_t rows = step; rows == step || rows <= std::min(outer, kMost); rows += step) {
    const int64_t columns = rows * period, tiles = CeilDiv(columns, columns_of_tile) * columns_of_tile;
    const int64_t idle = tiles - columns;
    if (rows == step || idle * columns_of_best < idle_of_best * tiles) {
      best = rows, idle_of_best = idle, columns_of_best = tiles;
    }
    if (idle_of_best * kFewIdle <= columns_of_best) break;
  }
  return best;
}

Tiles MakeTiles(const Layout& layout, int vector_width) {
  Tiles tiles{};
  tiles.size = layout.outer * layout.channels * layout.inner;
  tiles.period = layout.channels * layout.inner;
  tiles.channels = layout.channels;
  tiles.inner = layout.inner;
  // This many rows of the tensor are a whole number of vectors. If the tensor has fewer, elements go one by one.
  const int64_t whole = vector_width / std::gcd<int64_t>(tiles.period, vector_width);
  tiles.width = whole <= layout.outer ? vector_width : 1;
  const int64_t step = tiles.width == 1 ? 1 : whole;
  const int64_t columns_of_tile = kWarp * tiles.width, fit = std::min(layout.outer, columns_of_tile / tiles.period);
  const int64_t rows_in_one =
      fit >= 8 ? fit / step * step : RowsInOne(layout.outer, tiles.period, step, columns_of_tile);
  tiles.columns = tiles.period * std::max(step, rows_in_one);
  tiles.rows = CeilDiv(tiles.size, tiles.columns);
  tiles.across = CeilDiv(tiles.columns, kWarp * tiles.width);
  tiles.per_part = PerPart(tiles.rows, Tiles::kRowsAtOnce * kLeastRows, tiles.across);
  tiles.parts = CeilDiv(tiles.rows, tiles.per_part);
  return tiles;
}

}  // namespace

Plan MakePlan(const Layout& layout, int vector_width, bool aligned) {
  Plan plan{};
  plan.by_plane = layout.inner >= kLongPlane;
  if (plan.by_plane) {
    plan.planes = MakePlanes(layout, aligned && layout.inner % vector_width == 0 ? vector_width : 1);
  } else {
    plan.tiles = MakeTiles(layout, aligned ? vector_width : 1);
  }
  return plan;
}

int64_t MostPartials(const Layout& layout) {
  if (layout.empty()) return 0;
  int64_t most = 0;
  for (const int width : {1, 2, 4}) {
    const Plan plan = MakePlan(layout, width, true);
    most = std::max(most, plan.by_plane ? plan.planes.partials() : plan.tiles.partials());
  }
  return most;
}

}  // namespace onnx_cbp::cuda
