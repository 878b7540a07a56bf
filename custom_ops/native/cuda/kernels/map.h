// The pass that writes a tensor, element by element (ops: NormalizeTo, BackpropTo). It works on the last task first,
// since the cache still holds what the pass before read last.
#pragma once

#include "../elements/vectors.h"
#include "gather.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// How many blocks a multiprocessor should hold at least, which limits the registers of a thread. Values in double take
// twice as many registers.
template <typename Op>
constexpr int kResident = sizeof(typename Op::Compute) == sizeof(double) ? 2 : 3;

// The vector that the op makes from what it kept; coefficients_of(i) are those for element i's channel.
template <int kWidth, typename Op, typename CoefficientsOf>
ONNX_CBP_DEVICE Vector<typename Op::Element, kWidth> MakeVector(const Op& op,
                                                                const typename Op::template Kept<kWidth>& kept,
                                                                const CoefficientsOf& coefficients_of) {
  Vector<typename Op::Element, kWidth> made{};
  for (int i = 0; i < kWidth; ++i) made.Set(i, op.Make(kept, i, coefficients_of(i)));
  return made;
}

// Writes the first `there` vectors of a batch, where vector u is at(u). It reads all before it writes the first.
template <int kWidth, int kBatch, typename Op, typename At, typename ChannelOf>
ONNX_CBP_DEVICE void MapBatch(const Op& op, int there, const At& at, const ChannelOf& channel_of) {
  Batch<typename Op::template Inputs<kWidth>, kBatch> inputs;
  for (int u = 0; u < kBatch; ++u) {
    if (u < there) inputs[u] = op.template Read<kWidth, true>(at(u));
  }
  for (int u = 0; u < kBatch; ++u) {
    if (u < there) {
      const auto kept = op.Keep(inputs[u], channel_of);
      StoreVector(MakeVector<kWidth>(op, kept, channel_of), op.out + at(u));
    }
  }
}

template <typename Op, int kWidth>
struct MapPlanes {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = kResident<Op>;

  Op op;
  Planes planes;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    constexpr int kBatch = kUnroll<Op, kWidth>;
    const int64_t task = planes.tasks() - 1 - block.index();
    const int64_t channel = planes.channel(task), part = planes.part(task), end = planes.end(part);
    const typename Op::Channel known = op.Of(channel);
    const OneChannel<typename Op::Channel> channel_of{known};
    block.ForEachThread([&](int thread) {
      int64_t unit = planes.begin(part) + thread;
      if (unit >= end) return;
      PlaneWalk walk(planes, channel, unit);
      for (; unit < end; unit += kBatch * kThreads) {
        int64_t at[kBatch];
        for (int u = 0; u < kBatch; ++u) {
          at[u] = walk.at * kWidth;
          walk.Step(planes);
        }
        MapBatch<kWidth, kBatch>(
            op, StepsBetween<kThreads, kBatch>(unit, end), [&](int u) { return at[u]; }, channel_of);
      }
    });
  }
};

template <typename Op, int kWidth>
struct MapTiles {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = 2;
  static constexpr int kWarps = Tiles::kRowsAtOnce;

  Op op;
  Tiles tiles;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t task = tiles.tasks() - 1 - block.index();
    block.ForEachThread([&](int thread) {
      const TileWalk walk(tiles, task, thread);
      if (walk.column >= tiles.columns) return;
      typename Op::Channel known[kWidth];
      for (int v = 0; v < kWidth; ++v) known[v] = op.Of(tiles.channel(walk.column + v));
      const OwnChannels<typename Op::Channel> channel_of{known};
      MapRows(walk, channel_of);
      if (walk.has_part()) MapPartOfRow(walk, channel_of);
    });
  }

 private:
  // Writes those of the thread's rows that have its whole vector.
  ONNX_CBP_DEVICE void MapRows(const TileWalk& walk, const OwnChannels<typename Op::Channel>& channel_of) const {
    constexpr int kBatch = kUnrollRows<Op, kWidth>;
    const int64_t step = kWarps * tiles.columns;
    for (int64_t row = walk.row; row < walk.whole; row += kBatch * kWarps) {
      const int64_t at = row * tiles.columns + walk.column;
      MapBatch<kWidth, kBatch>(
          op, StepsBetween<kWarps, kBatch>(row, walk.whole), [&](int u) { return at + u * step; }, channel_of);
    }
  }

  // Writes the row in which the tensor ends, up to the end.
  ONNX_CBP_DEVICE void MapPartOfRow(const TileWalk& walk, const OwnChannels<typename Op::Channel>& channel_of) const {
    const int64_t at = walk.whole * tiles.columns + walk.column;
    const auto kept = op.Keep(op.template ReadFirst<kWidth>(at, tiles.size - at), channel_of);
    const auto made = MakeVector<kWidth>(op, kept, channel_of);
    for (int v = 0; v < kWidth; ++v) {
      if (at + v < tiles.size) op.out[at + v] = made.At(v);
    }
  }
};

}  // namespace onnx_cbp::cuda
