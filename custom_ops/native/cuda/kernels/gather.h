// The first pass over a tensor: sums of every channel's parts (ops: MomentsOf, SumsOf).
#pragma once

#include "../elements/accumulate.h"
#include "../elements/vectors.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// Vectors of every tensor that a thread has under way: about 64 bytes of them in all, and no more than 12 elements
// one by one, for which there are registers.
template <typename Op, int kWidth>
constexpr int kUnroll = static_cast<int>(kWidth == 1 && sizeof(typename Op::Element) < 8
                                             ? 12 / Op::kTensors
                                             : 64 / (Op::kTensors * kWidth * sizeof(typename Op::Element)));

// The same in Tiles, whose threads keep numbers of several channels.
template <typename Op, int kWidth>
constexpr int kUnrollRows = kUnroll<Op, kWidth> < 4 ? kUnroll<Op, kWidth> : 4;

// How many of begin, begin + kStep, ... lie before end, which is behind begin; kMost where there are more.
template <int kStep, int kMost>
ONNX_CBP_DEVICE int StepsBetween(int64_t begin, int64_t end) {
  constexpr int64_t kAll = static_cast<int64_t>(kStep) * kMost;
  const int64_t left = end - begin;
  return left >= kAll ? kMost : static_cast<int>(left + kStep - 1) / kStep;
}

// Terms that are summed at once: 16 additions to a lane at most.
constexpr int kTerms = 16;

// Walks a thread's units of a channel from `unit` to `end`, so many at once: keep(unit, kept) for each, and their terms
// into sums. What the last batch lacks adds nothing.
template <int kWidth, typename Op, typename Keep>
ONNX_CBP_DEVICE TermSums GatherUnits(const Op& op, const Planes& planes, int64_t channel, int64_t unit, int64_t end,
                                     const typename Op::Channel& of, Keep&& keep) {
  using Narrow = typename Op::Narrow;
  constexpr int kBatch = kUnroll<Op, kWidth>;
  TermSums sums;
  if (unit >= end) return sums;
  PlaneWalk walk(planes, channel, unit);
  const Same<typename Op::Channel> channel_of{of};
  for (; unit < end; unit += kBatch * kThreads) {
    const int there = StepsBetween<kThreads, kBatch>(unit, end);
    Batch<typename Op::template Inputs<kWidth>, kBatch> inputs;
    Batch<typename Op::template Kept<kWidth>, kBatch> kept;
    for (int u = 0; u < kBatch; ++u) {
      if (u < there) inputs[u] = op.template Read<kWidth, false>(walk.at * kWidth);
      walk.Step(planes);
    }
    for (int u = 0; u < kBatch; ++u) {
      if (u < there) {
        kept[u] = op.Keep(inputs[u], channel_of);
        keep(unit + u * kThreads, kept[u]);
      }
    }
    constexpr int kAtOnce = kBatch * kWidth < kTerms ? kBatch * kWidth : kTerms;
    for (int first = 0; first < kBatch * kWidth; first += kAtOnce) {
      AddBatch<Narrow, kAtOnce>(
          op.in_narrow,
          [&](auto a, int i) {
            using A = decltype(a);
            const int u = (first + i) / kWidth;
            return u < there ? op.template TermOf<A>(kept[u], (first + i) % kWidth, of) : Term<A>{};
          },
          &sums);
    }
  }
  return sums;
}

// What the op must know of a channel before it sums a part of it.
template <typename Op, typename Block>
ONNX_CBP_DEVICE typename Op::Channel PrepareChannel(Block& block, const Op& op, const Planes& planes, int64_t channel,
                                                    int64_t begin, int64_t end) {
  if constexpr (Op::kPivots) {
    // Around the mean of the first elements of every thread.
    typename Block::template PerThread<double> first;
    block.ForEachThread([&](int thread) {
      first[thread] = 0.0;
      if (begin + thread >= end) return;
      const PlaneWalk walk(planes, channel, begin + thread);
      const auto* x = op.x + walk.at * planes.width;
      first[thread] = Widen<double>(*x);
    });
    const double sum = block.Reduce(first, [](double a, double b) { return a + b; });
    const int64_t count = end - begin < kThreads ? end - begin : kThreads;
    return op.Around(sum, static_cast<double>(count));
  } else {
    return op.Of(channel);
  }
}

// A block sums a part of a channel.
template <typename Op, int kWidth>
struct GatherPlanes {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = 2;

  Op op;
  Planes planes;
  Pair* partials;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t channel = planes.channel(block.index());
    const int64_t begin = planes.begin(block.index()), end = planes.end(block.index());
    const typename Op::Channel of = PrepareChannel(block, op, planes, channel, begin, end);
    typename Block::template PerThread<TermSums> sums;
    block.ForEachThread([&](int thread) {
      sums[thread] = GatherUnits<kWidth>(op, planes, channel, begin + thread, end, of, [](int64_t, const auto&) {});
    });
    const TermSums total = block.Reduce(sums, [](const TermSums& a, const TermSums& b) { return a + b; });
    block.ForEachThread([&](int thread) {
      if (thread != 0) return;
      const double count = static_cast<double>((end - begin) * kWidth);
      partials[planes.partial(channel, begin / planes.per_part)] = op.Partial(total, of, count);
    });
  }
};

// A block takes a tile of columns: a warp reads neighbouring columns of a row, and each warp another row.
template <typename Op, int kWidth>
struct GatherTiles {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = 2;
  static constexpr int kWarps = Tiles::kRowsAtOnce;
  static constexpr int kColumns = kWarp * kWidth;
  // Of each thread, how many rows make the pivot.
  static constexpr int kPivotRows = 4;
  using Channel = typename Op::Channel;
  using Narrow = typename Op::Narrow;

  Op op;
  Tiles tiles;
  Pair* partials;

  static constexpr size_t kShared = sizeof(TermSums) * kWarps * kColumns;

  // Transposed, so that the threads of a warp do not meet in a bank: [warp, element of a vector, lane].
  ONNX_CBP_DEVICE static int SharedIndex(int warp, int v, int lane) { return (warp * kWidth + v) * kWarp + lane; }

  // The vector at a row and column; elements beyond the tensor's end are zeros.
  ONNX_CBP_DEVICE typename Op::template Inputs<kWidth> Read(int64_t row, int64_t column) const {
    const int64_t at = row * tiles.columns + column;
    return at + kWidth <= tiles.size ? op.template Read<kWidth, false>(at)
                                     : op.template ReadFirst<kWidth>(at, tiles.size - at);
  }

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    constexpr int kBatch = kUnrollRows<Op, kWidth>;
    const int64_t begin = tiles.begin(block.index()), end = tiles.end(block.index());
    const auto column_of = [&](int thread) { return tiles.column(block.index(), thread % kWarp); };
    struct Channels {
      Channel of[kWidth];
    };
    typename Block::template PerThread<Channels> channels;
    if constexpr (Op::kPivots) {
      double* const sums_of_first = block.template Shared<double>();
      block.ForEachThread([&](int thread) {
        double sums[kWidth] = {};
        if (column_of(thread) < tiles.columns) {
          for (int k = 0; k < kPivotRows; ++k) {
            const int64_t row = begin + thread / kWarp + k * kWarps;
            if (row >= end) continue;
            const auto inputs = Read(row, column_of(thread));
            for (int v = 0; v < kWidth; ++v) sums[v] += Widen<double>(inputs.x.At(v));
          }
        }
        for (int v = 0; v < kWidth; ++v) sums_of_first[SharedIndex(thread / kWarp, v, thread % kWarp)] = sums[v];
      });
      block.ForEachThread([&](int thread) {
        const int64_t last = begin + kPivotRows * kWarps;
        for (int v = 0; v < kWidth; ++v) {
          double sum = 0.0;
          for (int w = 0; w < kWarps; ++w) sum += sums_of_first[SharedIndex(w, v, thread % kWarp)];
          const int64_t count = tiles.count_in(column_of(thread) + v, begin, last < end ? last : end);
          channels[thread].of[v] = op.Around(sum, static_cast<double>(count));
        }
      });
    } else {
      block.ForEachThread([&](int thread) {
        if (column_of(thread) >= tiles.columns) return;
        for (int v = 0; v < kWidth; ++v) channels[thread].of[v] = op.Of(tiles.channel(column_of(thread) + v));
      });
    }
    TermSums* const of_warps = block.template Shared<TermSums>();
    block.ForEachThread([&](int thread) {
      const Channels& of = channels[thread];
      TermSums sums[kWidth];
      const Own<Channel> channel_of{of.of};
      const int64_t column = column_of(thread);
      if (column < tiles.columns) {
        const int64_t whole = tiles.end_of_whole(column, end), step = kWarps * tiles.columns;
        for (int64_t row = begin + thread / kWarp; row < whole; row += kBatch * kWarps) {
          const int there = StepsBetween<kWarps, kBatch>(row, whole);
          const int64_t at = row * tiles.columns + column;
          Batch<typename Op::template Inputs<kWidth>, kBatch> inputs;
          Batch<typename Op::template Kept<kWidth>, kBatch> kept;
          for (int u = 0; u < kBatch; ++u) {
            if (u < there) inputs[u] = op.template Read<kWidth, false>(at + u * step);
          }
          for (int u = 0; u < kBatch; ++u) {
            if (u < there) kept[u] = op.Keep(inputs[u], channel_of);
          }
          for (int v = 0; v < kWidth; ++v) {
            AddBatch<Narrow, kBatch>(
                op.in_narrow,
                [&](auto a, int u) {
                  using A = decltype(a);
                  return u < there ? op.template TermOf<A>(kept[u], v, of.of[v]) : Term<A>{};
                },
                &sums[v]);
          }
        }
        if (whole < end && (whole - begin) % kWarps == thread / kWarp) {
          const int64_t at = whole * tiles.columns + column;
          const auto kept = op.Keep(op.template ReadFirst<kWidth>(at, tiles.size - at), channel_of);
          for (int v = 0; v < kWidth; ++v) {
            if (at + v >= tiles.size) continue;
            AddBatch<Narrow, 1>(
                op.in_narrow, [&](auto a, int) { return op.template TermOf<decltype(a)>(kept, v, of.of[v]); },
                &sums[v]);
          }
        }
      }
      for (int v = 0; v < kWidth; ++v) of_warps[SharedIndex(thread / kWarp, v, thread % kWarp)] = sums[v];
    });
    block.ForEachThread([&](int thread) {
      const int64_t column = column_of(thread);
      if (thread >= kWarp || column >= tiles.columns) return;
      for (int v = 0; v < kWidth; ++v) {
        TermSums all[kWarps];
        for (int w = 0; w < kWarps; ++w) all[w] = of_warps[SharedIndex(w, v, thread)];
        const TermSums total = ReduceArray(all, [](const TermSums& a, const TermSums& b) { return a + b; });
        const double count = static_cast<double>(tiles.count_in(column + v, begin, end));
        partials[begin / tiles.per_part * tiles.columns + column + v] =
            op.Partial(total, channels[thread].of[v], count);
      }
    });
  }
};

}  // namespace onnx_cbp::cuda
