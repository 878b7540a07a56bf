// The order of work of kernels with two steps: first gather something from every element, then map every element.
#pragma once

#include <algorithm>

#include "caches.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// How many tasks share the channels of a group, so that a thread finds in the cache what it reads for the second time.
// `bytes` is what the kernel moves for a group. Measured on 2 cores with 512 KB each and 32 MB together: with groups of
// 4 MB instead of 8 to 12, BatchNormGrad of 32x256x56x56 and 32x512x28x28 is 1.1 to 1.2 times as fast.
inline int64_t TasksOfGroup(const Partition& partition, size_t bytes) {
  constexpr size_t kInCache = size_t{4} << 20;
  constexpr int64_t kShortRun = 1 << 13;  // memory is slower at shorter runs
  const int64_t wanted = static_cast<int64_t>((bytes + kInCache - 1) / kInCache);
  const int64_t most = (partition.run() + kShortRun / 2) / kShortRun;
  return std::max<int64_t>(1, std::min({wanted, most, partition.channels_per_piece()}));
}

// Calls gather(piece, part) for every piece of the partition; finish(channel_begin, channel_end) when all pieces of
// these channels are gathered; then map(piece) for all elements, backwards, since what was read last is still in the
// cache.
//
// If there are enough groups of channels, each group goes through all three while its data is in a core's own cache.
// There is one exception: a group that lies in memory in many short runs, far apart, while the largest cache holds
// everything anyway. Then elements are mapped in the order of memory. In both cases the partition decides which parts
// of a channel are gathered, and results depend neither on which of its channels are worked on together, nor on where
// mapped pieces begin.
//
// bytes: all that the kernel moves.
template <typename Gather, typename Finish, typename Map>
void RunTwoSteps(const Executor& executor, const Partition& partition, const Layout& layout, size_t bytes,
                 Gather&& gather, Finish&& finish, Map&& map) {
  // Measured on 2 cores with 1 MB each and 32 MB together: with runs this short and this many elements or more, mapping
  // in the order of memory is 1.1 to 1.3 times as fast. With fewer elements it is slower, since the threads have to
  // wait for each other once more; also if the cache cannot hold everything.
  constexpr int64_t kEnoughGroups = 8, kShortRun = 1 << 13, kManyElements = 3 << 19;
  const int64_t groups = partition.channel_pieces();
  const int64_t parts = partition.parts();
  const bool scattered = FitsCaches(bytes) && !WalksByRow(layout) && partition.run() < kShortRun &&
                         layout.size() >= static_cast<size_t>(kManyElements);
  if ((scattered || groups < kEnoughGroups) && partition.tasks() > 1) {
    executor.ForEach(partition.tasks(), [&](int64_t task) { gather(partition.piece(task), partition.part(task)); });
    finish(int64_t{0}, layout.channels);
    const Partition mapped = Partition::OfMap(layout);
    executor.ForEach(mapped.tasks(), [&](int64_t task) { map(mapped.piece(mapped.tasks() - 1 - task)); });
    return;
  }
  const int64_t shares =
      WalksByRow(layout) || groups == 0 ? 1 : TasksOfGroup(partition, bytes / static_cast<size_t>(groups));
  executor.ForEach(groups * shares, [&](int64_t task) {
    const int64_t group = task / shares;
    const auto piece = [&](int64_t part) {
      return partition.piece(part * groups + group).share(task % shares, shares);
    };
    if (piece(0).channels() == 0) return;
    for (int64_t part = 0; part < parts; ++part) gather(piece(part), part);
    finish(piece(0).channel_begin, piece(0).channel_end);
    for (int64_t part = parts; part-- > 0;) map(piece(part));
  });
}

}  // namespace onnx_cbp
