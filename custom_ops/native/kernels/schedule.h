// The order in which a kernel of two steps works: gather something from every element, then map every element.
#pragma once

#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// gather(task) for every block, finish(channel_begin, channel_end) when all blocks of these channels are gathered, then
// map(task) for every block, backwards: what was read last is still in the cache. With enough groups of channels a
// group goes through all three while its data is in the cache; the blocks are those of the partition either way, so the
// results are too.
template <typename Gather, typename Finish, typename Map>
void RunTwoSteps(const Executor& executor, const Partition& partition, const Layout& layout, Gather&& gather,
                 Finish&& finish, Map&& map) {
  constexpr int64_t kEnoughGroups = 8;
  const int64_t groups = partition.channel_blocks();
  const int64_t parts = partition.parts();
  if (groups < kEnoughGroups && partition.tasks() > 1) {
    executor.ForEach(partition.tasks(), gather);
    finish(int64_t{0}, layout.channels);
    executor.ForEach(partition.tasks(), [&](int64_t task) { map(partition.tasks() - 1 - task); });
    return;
  }
  executor.ForEach(groups, [&](int64_t group) {
    for (int64_t part = 0; part < parts; ++part) gather(part * groups + group);
    const Block block = partition.block(group);
    finish(block.channel_begin, block.channel_end);
    for (int64_t part = parts; part-- > 0;) map(part * groups + group);
  });
}

}  // namespace onnx_cbp
