// The pass that writes a tensor, element by element (ops: NormalizeTo, BackpropTo). It goes from the end to the
// beginning: of what was read before, the last is still in the cache.
#pragma once

#include "../elements/vectors.h"
#include "gather.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// How many blocks a multiprocessor is to hold at least, which bounds the registers of a thread. Arithmetic in double
// takes twice as many.
template <typename Op>
constexpr int kResident = sizeof(typename Op::Compute) == sizeof(double) ? 2 : 3;

// The vector that the op makes of what it kept; of(i) are the coefficients of element i.
template <int kWidth, typename Op, typename CoefficientsOf>
ONNX_CBP_DEVICE Vector<typename Op::Element, kWidth> MakeVector(const Op& op,
                                                                const typename Op::template Kept<kWidth>& kept,
                                                                CoefficientsOf&& of) {
  Vector<typename Op::Element, kWidth> made{};
  for (int i = 0; i < kWidth; ++i) made.Set(i, op.Make(kept, i, of(i)));
  return made;
}

// Writes the first `there` of a thread's units, at(u) for unit u: all are read before the first is written.
template <int kWidth, int kBatch, typename Op, typename At, typename CoefficientsOf>
ONNX_CBP_DEVICE void MapBatch(const Op& op, int there, At&& at, CoefficientsOf&& channel_of) {
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
    const int64_t task = planes.channels * planes.parts - 1 - block.index();
    const int64_t end = planes.end(task);
    const typename Op::Channel channel = op.Of(planes.channel(task));
    const Same<typename Op::Channel> channel_of{channel};
    block.ForEachThread([&](int thread) {
      int64_t unit = planes.begin(task) + thread;
      if (unit >= end) return;
      PlaneWalk walk(planes, planes.channel(task), unit);
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
    constexpr int kBatch = kUnrollRows<Op, kWidth>;
    const int64_t task = tiles.across * tiles.parts - 1 - block.index();
    const int64_t end = tiles.end(task);
    block.ForEachThread([&](int thread) {
      const int64_t column = tiles.column(task, thread % kWarp);
      if (column >= tiles.columns) return;
      typename Op::Channel channels[kWidth];
      for (int v = 0; v < kWidth; ++v) channels[v] = op.Of(tiles.channel(column + v));
      const Own<typename Op::Channel> channel_of{channels};
      const int64_t whole = tiles.end_of_whole(column, end);
      const int64_t step = kWarps * tiles.columns;
      int64_t row = tiles.begin(task) + thread / kWarp;
      for (; row < whole; row += kBatch * kWarps) {
        const int64_t at = row * tiles.columns + column;
        MapBatch<kWidth, kBatch>(
            op, StepsBetween<kWarps, kBatch>(row, whole), [&](int u) { return at + u * step; }, channel_of);
      }
      if (whole == end || (whole - tiles.begin(task)) % kWarps != thread / kWarp) return;
      const int64_t at = whole * tiles.columns + column;
      const auto kept = op.Keep(op.template ReadFirst<kWidth>(at, tiles.size - at), channel_of);
      const auto made = MakeVector<kWidth>(op, kept, channel_of);
      for (int v = 0; v < kWidth; ++v) {
        if (at + v < tiles.size) op.out[at + v] = made.At(v);
      }
    });
  }
};

}  // namespace onnx_cbp::cuda
