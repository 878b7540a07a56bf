// Checks how tensors are divided among blocks and threads: every element belongs to exactly one thread and to the right
// channel, every partial sum has its own place and the right count; and, for tensors of more elements than any memory
// has, that no index overflows. Says what is wrong, one line each, and ends with 1.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/plan.h"

namespace {

using onnx_cbp::Layout;
using namespace onnx_cbp::cuda;

int failures = 0;

void Expect(bool holds, const char* what, const Layout& layout, int width) {
  if (holds) return;
  ++failures;
  std::printf("%s: [%lld, %lld, %lld] in units of %d\n", what, static_cast<long long>(layout.outer),
              static_cast<long long>(layout.channels), static_cast<long long>(layout.inner), width);
}

struct Visits {
  std::vector<int> elements, partials;
  std::vector<int64_t> counts;  // of each partial sum, the elements that went into it
  bool right_channels = true, right_counts = true;

  bool each_once() const {
    for (const int times : elements) {
      if (times != 1) return false;
    }
    for (const int times : partials) {
      if (times != 1) return false;
    }
    return true;
  }
};

// As GatherPlanes and MapPlanes do.
Visits VisitPlanes(const Layout& layout, const Planes& planes) {
  Visits visits{std::vector<int>(layout.size()), std::vector<int>(static_cast<size_t>(planes.partials())),
                std::vector<int64_t>(static_cast<size_t>(planes.partials()))};
  for (int64_t task = 0; task < planes.tasks(); ++task) {
    const int64_t channel = planes.channel(task), part = planes.part(task), end = planes.end(part);
    const size_t partial = static_cast<size_t>(planes.partial(channel, part));
    for (int thread = 0; thread < kThreads; ++thread) {
      int64_t unit = planes.begin(part) + thread;
      if (unit >= end) continue;
      for (PlaneWalk walk(planes, channel, unit); unit < end; unit += kThreads, walk.Step(planes)) {
        for (int v = 0; v < planes.width; ++v) {
          const int64_t at = walk.at * planes.width + v;
          if (at >= static_cast<int64_t>(layout.size())) {
            visits.right_channels = false;
            continue;
          }
          ++visits.elements[static_cast<size_t>(at)];
          ++visits.counts[partial];
          visits.right_channels &= at / layout.inner % layout.channels == channel;
        }
      }
    }
    visits.right_counts &= visits.counts[partial] == planes.count(channel, part);
  }
  for (int64_t channel = 0; channel < planes.channels; ++channel) {
    for (int64_t i = 0; i < planes.partials_of_channel(); ++i) {
      ++visits.partials[static_cast<size_t>(planes.partial(channel, i))];
    }
  }
  return visits;
}

// As GatherTiles and MapTiles do.
Visits VisitTiles(const Layout& layout, const Tiles& tiles) {
  Visits visits{std::vector<int>(layout.size()), std::vector<int>(static_cast<size_t>(tiles.partials())),
                std::vector<int64_t>(static_cast<size_t>(tiles.partials()))};
  const auto visit = [&](int64_t task, int64_t row, int64_t column) {
    const int64_t at = row * tiles.columns + column;
    if (at >= tiles.size) return;
    ++visits.elements[static_cast<size_t>(at)];
    ++visits.counts[static_cast<size_t>(tiles.part(task) * tiles.columns + column)];
    visits.right_channels &= at / layout.inner % layout.channels == tiles.channel(column);
  };
  for (int64_t task = 0; task < tiles.tasks(); ++task) {
    for (int thread = 0; thread < kThreads; ++thread) {
      const TileWalk walk(tiles, task, thread);
      if (walk.column >= tiles.columns) continue;
      const int64_t end = walk.has_part() ? walk.whole + 1 : walk.whole;
      for (int64_t row = walk.row; row < end; row += Tiles::kRowsAtOnce) {
        for (int v = 0; v < tiles.width; ++v) visit(task, row, walk.column + v);
      }
    }
  }
  for (int64_t channel = 0; channel < tiles.channels; ++channel) {
    for (int64_t i = 0; i < tiles.partials_of_channel(); ++i) {
      const size_t partial = static_cast<size_t>(tiles.partial(channel, i));
      ++visits.partials[partial];
      visits.right_counts &= visits.counts[partial] == tiles.count(channel, i);
    }
  }
  return visits;
}

void CheckSmall(const Layout& layout) {
  if (layout.empty()) return;
  for (const int width : {1, 2, 4}) {
    const Plan plan = MakePlan(layout, width, true);
    const Visits visits = plan.by_plane ? VisitPlanes(layout, plan.planes) : VisitTiles(layout, plan.tiles);
    Expect(visits.each_once(), "an element or a partial sum is not visited once", layout, width);
    Expect(visits.right_channels, "an element is taken for another channel's", layout, width);
    Expect(visits.right_counts, "a partial sum has another count", layout, width);
    const int64_t partials = plan.by_plane ? plan.planes.partials() : plan.tiles.partials();
    Expect(partials <= MostPartials(layout), "the workspace is too small", layout, width);
  }
}

// The last elements of every task, of a tensor that is not there.
void CheckLarge(const Layout& layout) {
  const auto size = static_cast<__int128>(layout.outer) * layout.channels * layout.inner;
  for (const int width : {1, 4}) {
    const Plan plan = MakePlan(layout, width, true);
    if (plan.by_plane) {
      const Planes& planes = plan.planes;
      for (const int64_t task : {int64_t{0}, planes.tasks() / 2, planes.tasks() - 1}) {
        const int64_t channel = planes.channel(task), part = planes.part(task);
        const int64_t first = planes.begin(part), last = planes.end(part) - 1;
        Expect(first <= last && last < planes.units(), "a task is empty", layout, width);
        const PlaneWalk walk(planes, channel, last);
        const __int128 at = (static_cast<__int128>(last / planes.inner) * layout.channels + channel) * planes.inner +
                            last % planes.inner;
        Expect(walk.at == at && (at + 1) * planes.width <= size, "an index is wrong", layout, width);
        PlaneWalk stepped(planes, channel, last - kThreads);
        stepped.Step(planes);
        Expect(stepped.at == walk.at && stepped.in_plane == walk.in_plane, "a step is wrong", layout, width);
      }
    } else {
      const Tiles& tiles = plan.tiles;
      const int64_t task = tiles.tasks() - 1, row = tiles.end(tiles.part(task)) - 1;
      Expect(row == tiles.rows - 1, "the last row is another", layout, width);
      Expect(
          static_cast<__int128>(row) * tiles.columns < size && static_cast<__int128>(row + 1) * tiles.columns >= size,
          "the rows do not cover the tensor", layout, width);
      int64_t count = 0;
      for (int64_t i = 0; i < tiles.partials_of_channel(); ++i) count += tiles.count(layout.channels - 1, i);
      Expect(count == layout.outer * layout.inner, "a channel has another count", layout, width);
    }
    Expect(plan.tasks() > 0 && MostPartials(layout) < int64_t{1} << 30, "there are too many partial sums", layout,
           width);
  }
}

}  // namespace

int main() {
  {
    for (const int64_t outer : {1, 2, 3, 5, 8, 33, 100, 700}) {
      for (const int64_t channels : {1, 2, 3, 5, 16, 41, 100, 130}) {
        for (const int64_t inner : {1, 2, 3, 7, 9, 15, 16, 17, 49, 64, 100, 289}) {
          if (outer * channels * inner < 400'000) CheckSmall(Layout{outer, channels, inner});
        }
      }
    }
    CheckSmall(Layout{2, 3, 100'003});
    CheckSmall(Layout{1, 1, 300'000});
    CheckSmall(Layout{30'000, 3, 1});
    const int64_t billion = 1'000'000'000;
    CheckLarge(Layout{1, 1, 5 * billion + 3});
    CheckLarge(Layout{5 * billion + 1, 1, 1});
    CheckLarge(Layout{3, 2, 3 * billion + 4});
    CheckLarge(Layout{1 << 20, 64, 112 * 112});
    CheckLarge(Layout{1 << 20, 64, 7 * 7 * 99});
    CheckLarge(Layout{3 * billion, 3, 1});
    CheckLarge(Layout{40'000'000, 256, 1});
    CheckLarge(Layout{40'000'000, 255, 15});
  }
  if (failures == 0) std::puts("every element has its thread");
  return failures == 0 ? 0 : 1;
}
