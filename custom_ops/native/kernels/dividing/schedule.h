// The order of work of kernels with two steps: first gather something from every element, then map every element.
#pragma once

#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// Calls gather(task) for every piece of the partition; finish(channel_begin, channel_end) when all pieces of these
// channels are gathered; then map(piece) for all elements, backwards, since what was read last is still in the cache.
//
// If there are enough groups of channels, each group goes through all three while its data is in a core's own cache.
// There is one exception: a group that lies in memory in many short runs, far apart, while the largest cache holds
// everything anyway. Then elements are mapped in the order of memory. In both cases the partition decides which pieces
// are gathered, and results do not depend on where mapped pieces begin.
//
// cached: whether the largest cache holds all that the kernel moves.
template <typename Gather, typename Finish, typename Map>
void RunTwoSteps(const Executor& executor, const Partition& partition, const Layout& layout, bool cached,
                 Gather&& gather, Finish&& finish, Map&& map) {
  // Measured on 2 cores with 1 MB each and 32 MB together: with runs this short and this many elements or more, mapping
  // in the order of memory is 1.1 to 1.3 times as fast. With fewer elements it is slower, since the threads have to
  // wait for each other once more; also if the cache cannot hold everything.
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
