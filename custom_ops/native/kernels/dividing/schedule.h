// The order in which a kernel of two steps works: gather something from every element, then map every element.
#pragma once

#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// gather(task) for every piece of the partition, finish(channel_begin, channel_end) when all pieces of these channels
// are gathered, then map(piece) for all elements, backwards: what was read last is still in the cache. With enough
// groups of channels a group goes through all three while its data is in a core's own cache. Not where a group lies in
// memory in many short runs, far apart, and the largest cache holds everything anyway: there, elements are mapped in
// the order of memory. Either way, pieces are gathered as the partition has them, and results do not depend on where
// mapped pieces begin.
//
// cached: whether the largest cache holds all that the kernel moves.
template <typename Gather, typename Finish, typename Map>
void RunTwoSteps(const Executor& executor, const Partition& partition, const Layout& layout, bool cached,
                 Gather&& gather, Finish&& finish, Map&& map) {
  // Measured on 2 cores with 1 MB each and 32 MB together: 1.1 to 1.3 times as fast with these runs and so many
  // elements or more, and slower with fewer, where the threads' second meeting takes longer, or with what the cache
  // cannot hold.
  constexpr int64_t kEnoughGroups = 8, kShortRun = 1 << 13, kManyElements = 3 << 19;
  const int64_t groups = partition.channel_pieces();
  const int64_t parts = partition.parts();
  const bool scattered = cached && !WalksByRow(layout) && partition.run() < kShortRun &&
                         layout.size() >= static_cast<size_t>(kManyElements);
  if ((scattered || groups < kEnoughGroups) && partition.tasks() > 1) {
    executor.ForEach(partition.tasks(), gather);
    finish(int64_t{0}, layout.channels);
    const Partition mapped = Partition::OfMap(layout);
    executor.ForEach(mapped.tasks(), [&](int64_t task) { map(mapped.piece(mapped.tasks() - 1 - task)); });
    return;
  }
  executor.ForEach(groups, [&](int64_t group) {
    for (int64_t part = 0; part < parts; ++part) gather(part * groups + group);
    const Piece piece = partition.piece(group);
    finish(piece.channel_begin, piece.channel_end);
    for (int64_t part = parts; part-- > 0;) map(partition.piece(part * groups + group));
  });
}

}  // namespace onnx_cbp
