// The first pass over a tensor: sums the parts of every channel (ops: MomentsOf, SumsOf).
#pragma once

#include "../elements/accumulate.h"
#include "../elements/vectors.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// How many vectors of every tensor a thread reads before it uses the first: about 64 bytes in all. If elements are read
// one by one, 12 elements in all. Registers have room for these.
template <typename Op, int kWidth>
constexpr int kUnroll = static_cast<int>(kWidth == 1 && sizeof(typename Op::Element) < 8
                                             ? 12 / Op::kTensors
                                             : 64 / (Op::kTensors * kWidth * sizeof(typename Op::Element)));

// The same in Tiles, where a thread also keeps the values of several channels in registers.
template <typename Op, int kWidth>
constexpr int kUnrollRows = kUnroll<Op, kWidth> < 4 ? kUnroll<Op, kWidth> : 4;

// How many blocks a multiprocessor should hold at least, which limits the registers of a thread. A gradient's sums over
// single elements fit three blocks if they are computed in float. With vectors, in double, or with a dozen elements in
// flight (moments), many of the kernels would spill.
template <typename Op, int kWidth>
constexpr int kResidentSums = kWidth == 1 && !Op::kPivots && sizeof(typename Op::Compute) < sizeof(double) ? 3 : 2;

// How many of begin, begin + kStep, ... lie before end, which must be after begin; at most kMost.
template <int kStep, int kMost>
ONNX_CBP_DEVICE int StepsBetween(int64_t begin, int64_t end) {
  constexpr int64_t kAll = static_cast<int64_t>(kStep) * kMost;
  const int64_t left = end - begin;
  return left >= kAll ? kMost : static_cast<int>(left + kStep - 1) / kStep;
}

// How many terms are summed at once: at most 16 additions per lane.
constexpr int kTerms = 16;

// The terms of elements first, first + kStride, ... of a batch of vectors. Only the first `there` vectors were read;
// the others add nothing. All elements belong to one channel, whose Channel is given.
template <int kStride, typename Op, int kWidth, int kBatch>
struct BatchTerms {
  const Op& op;
  const Batch<typename Op::template Kept<kWidth>, kBatch>& kept;
  int there;
  const typename Op::Channel& known;
  int first;

  template <typename A>
  ONNX_CBP_DEVICE Term<A> At(int i) const {
    const int element = first + i * kStride, vector = element / kWidth;
    return vector < there ? op.template TermOf<A>(kept[vector], element % kWidth, known) : Term<A>{};
  }
};

// For GatherUnits: sums what was read, and does not keep it.
struct KeepNothing {
  template <typename Kept>
  ONNX_CBP_DEVICE void operator()(int64_t, const Kept&) const {}
};

// Sums every kThreads-th unit of a channel, from `unit` to `end`. Calls keep(unit, kept) for each.
template <int kWidth, typename Op, typename Keep>
ONNX_CBP_DEVICE TermSums GatherUnits(const Op& op, const Planes& planes, int64_t channel, int64_t unit, int64_t end,
                                     const typename Op::Channel& known, const Keep& keep) {
  constexpr int kBatch = kUnroll<Op, kWidth>;
  TermSums sums;
  if (unit >= end) return sums;
  PlaneWalk walk(planes, channel, unit);
  const OneChannel<typename Op::Channel> channel_of{known};
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
      const BatchTerms<1, Op, kWidth, kBatch> terms{op, kept, there, known, first};
      AddBatch<typename Op::Narrow, kAtOnce>(op.in_narrow, terms, &sums);
    }
  }
  return sums;
}

// What the op must know about a channel before it sums the units from begin to end.
template <typename Op, typename Block>
ONNX_CBP_DEVICE typename Op::Channel PrepareChannel(Block& block, const Op& op, const Planes& planes, int64_t channel,
                                                    int64_t begin, int64_t end) {
  if constexpr (Op::kPivots) {
    // The pivot is the mean of the first elements of all threads.
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

// A block sums a part of a channel, and writes the sum to *partial. Calls keep(unit, kept) for each unit.
template <int kWidth, typename Op, typename Block, typename Keep>
ONNX_CBP_DEVICE void GatherPart(Block& block, const Op& op, const Planes& planes, int64_t channel, int64_t part,
                                const Keep& keep, typename Op::Partial* partial) {
  const int64_t begin = planes.begin(part), end = planes.end(part);
  const typename Op::Channel known = PrepareChannel(block, op, planes, channel, begin, end);
  typename Block::template PerThread<TermSums> sums;
  block.ForEachThread(
      [&](int thread) { sums[thread] = GatherUnits<kWidth>(op, planes, channel, begin + thread, end, known, keep); });
  const TermSums total = block.Reduce(sums, [](const TermSums& a, const TermSums& b) { return a + b; });
  block.ForEachThread([&](int thread) {
    if (thread == 0) *partial = op.PartialOf(total, known, static_cast<double>((end - begin) * kWidth));
  });
}

template <typename Op, int kWidth>
struct GatherPlanes {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = kResidentSums<Op, kWidth>;

  Op op;
  Planes planes;
  typename Op::Partial* partials;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t channel = planes.channel(block.index()), part = planes.part(block.index());
    GatherPart<kWidth>(block, op, planes, channel, part, KeepNothing{}, partials + planes.partial(channel, part));
  }
};

// A block sums the columns of a tile: the threads of a warp read neighbouring columns of a row, and each warp reads
// another row.
template <typename Op, int kWidth>
struct GatherTiles {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = kResidentSums<Op, kWidth>;
  static constexpr int kWarps = Tiles::kRowsAtOnce;
  static constexpr size_t kShared = sizeof(TermSums) * kWarps * kWarp * kWidth;
  using Channel = typename Op::Channel;

  Op op;
  Tiles tiles;
  typename Op::Partial* partials;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    typename Block::template PerThread<Channels> channels;
    if constexpr (Op::kPivots) {
      ChoosePivots(block, &channels);
    } else {
      block.ForEachThread([&](int thread) {
        const int64_t column = tiles.column(block.index(), thread % kWarp);
        if (column >= tiles.columns) return;
        for (int v = 0; v < kWidth; ++v) channels[thread].known[v] = op.Of(tiles.channel(column + v));
      });
    }
    TermSums* const of_warps = block.template Shared<TermSums>();
    block.ForEachThread([&](int thread) {
      const TileWalk walk(tiles, block.index(), thread);
      TermSums sums[kWidth];
      if (walk.column < tiles.columns) {
        AddRows(walk, channels[thread], sums);
        if (walk.has_part()) AddPartOfRow(walk, channels[thread], sums);
      }
      for (int v = 0; v < kWidth; ++v) of_warps[SharedIndex(thread / kWarp, v, thread % kWarp)] = sums[v];
    });
    block.ForEachThread([&](int thread) {
      if (thread < kWarp) WritePartials(block.index(), thread, of_warps, channels[thread]);
    });
  }

 private:
  // What is known about the channels of a thread's columns.
  struct Channels {
    Channel known[kWidth];
  };

  // Indexes shared memory as [warp, element of a vector, lane]: so the threads of a warp access different banks.
  ONNX_CBP_DEVICE static int SharedIndex(int warp, int v, int lane) { return (warp * kWidth + v) * kWarp + lane; }

  // The pivot of a column is the mean of its first elements: those in kPivotRows rows of every warp.
  template <typename Block>
  ONNX_CBP_DEVICE void ChoosePivots(Block& block, typename Block::template PerThread<Channels>* channels) const {
    constexpr int kPivotRows = 4;
    double* const of_warps = block.template Shared<double>();
    block.ForEachThread([&](int thread) {
      const TileWalk walk(tiles, block.index(), thread);
      double sums[kWidth] = {};
      for (int k = 0; k < kPivotRows && walk.column < tiles.columns; ++k) {
        const int64_t row = walk.row + k * kWarps;
        if (row < walk.end) AddElements(row * tiles.columns + walk.column, sums);
      }
      for (int v = 0; v < kWidth; ++v) of_warps[SharedIndex(thread / kWarp, v, thread % kWarp)] = sums[v];
    });
    block.ForEachThread([&](int thread) {
      const int64_t column = tiles.column(block.index(), thread % kWarp);
      const int64_t begin = tiles.begin(tiles.part(block.index())), end = tiles.end(tiles.part(block.index()));
      const int64_t last = begin + kPivotRows * kWarps;
      for (int v = 0; v < kWidth; ++v) {
        double sum = 0.0;
        for (int w = 0; w < kWarps; ++w) sum += of_warps[SharedIndex(w, v, thread % kWarp)];
        const int64_t count = tiles.count_in(column + v, begin, last < end ? last : end);
        (*channels)[thread].known[v] = op.Around(sum, static_cast<double>(count));
      }
    });
  }

  // Adds the elements of x from `at` on; elements beyond the end of the tensor count as zeros.
  ONNX_CBP_DEVICE void AddElements(int64_t at, double (&sums)[kWidth]) const {
    const auto inputs = at + kWidth <= tiles.size ? op.template Read<kWidth, false>(at)
                                                  : op.template ReadFirst<kWidth>(at, tiles.size - at);
    for (int v = 0; v < kWidth; ++v) sums[v] += Widen<double>(inputs.x.At(v));
  }

  // Adds those of the thread's rows that have its whole vector.
  ONNX_CBP_DEVICE void AddRows(const TileWalk& walk, const Channels& channels, TermSums (&sums)[kWidth]) const {
    constexpr int kBatch = kUnrollRows<Op, kWidth>;
    const OwnChannels<Channel> channel_of{channels.known};
    const int64_t step = kWarps * tiles.columns;
    for (int64_t row = walk.row; row < walk.whole; row += kBatch * kWarps) {
      const int there = StepsBetween<kWarps, kBatch>(row, walk.whole);
      const int64_t at = row * tiles.columns + walk.column;
      Batch<typename Op::template Inputs<kWidth>, kBatch> inputs;
      Batch<typename Op::template Kept<kWidth>, kBatch> kept;
      for (int u = 0; u < kBatch; ++u) {
        if (u < there) inputs[u] = op.template Read<kWidth, false>(at + u * step);
      }
      for (int u = 0; u < kBatch; ++u) {
        if (u < there) kept[u] = op.Keep(inputs[u], channel_of);
      }
      for (int v = 0; v < kWidth; ++v) {
        const BatchTerms<kWidth, Op, kWidth, kBatch> terms{op, kept, there, channels.known[v], v};
        AddBatch<typename Op::Narrow, kBatch>(op.in_narrow, terms, &sums[v]);
      }
    }
  }

  // Adds the row in which the tensor ends, up to the end.
  ONNX_CBP_DEVICE void AddPartOfRow(const TileWalk& walk, const Channels& channels, TermSums (&sums)[kWidth]) const {
    const int64_t at = walk.whole * tiles.columns + walk.column;
    Batch<typename Op::template Kept<kWidth>, 1> kept;
    kept[0] = op.Keep(op.template ReadFirst<kWidth>(at, tiles.size - at), OwnChannels<Channel>{channels.known});
    for (int v = 0; v < kWidth; ++v) {
      if (at + v >= tiles.size) continue;
      const BatchTerms<kWidth, Op, kWidth, 1> terms{op, kept, 1, channels.known[v], v};
      AddBatch<typename Op::Narrow, 1>(op.in_narrow, terms, &sums[v]);
    }
  }

  // Writes the sums of a lane's columns over all warps.
  ONNX_CBP_DEVICE void WritePartials(int64_t task, int lane, const TermSums* of_warps, const Channels& channels) const {
    const int64_t column = tiles.column(task, lane), part = tiles.part(task);
    if (column >= tiles.columns) return;
    for (int v = 0; v < kWidth; ++v) {
      TermSums all[kWarps];
      for (int w = 0; w < kWarps; ++w) all[w] = of_warps[SharedIndex(w, v, lane)];
      const TermSums total = ReduceArray(all, [](const TermSums& a, const TermSums& b) { return a + b; });
      const double count = static_cast<double>(tiles.count_in(column + v, tiles.begin(part), tiles.end(part)));
      partials[part * tiles.columns + column + v] = op.PartialOf(total, channels.known[v], count);
    }
  }
};

}  // namespace onnx_cbp::cuda
