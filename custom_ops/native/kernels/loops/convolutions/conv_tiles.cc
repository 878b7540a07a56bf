// Results of a dense convolution, in tiles: some neighbouring pixels for some blocks of output channels.
#include "conv_tiles.h"

#include "../channels/lanes_of_channels.h"
#include "conv_registers.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// The number of products in one run. Each run is summed by itself, and its sum is added to those of the runs before: so
// fewer roundings add up.
constexpr int64_t kRun = 64;

// Sums the products of some channels, for kPixels neighbouring pixels in kBlocks blocks. x is the first element that
// the first pixel sees in the first channel. The sums are written to `out`, [block][pixel][lane], or added to what is
// there.
template <int kBlocks, int kPixels, typename V>
void AddTile(const ConvPlan& plan, const V* x, const V* weights, int64_t block_pitch, int64_t channels, bool add,
             V* out, int64_t out_pitch) {
  RegisterTile<kBlocks, kPixels, V> tile;
  const int64_t taps = plan.taps();
  const int64_t* offsets = plan.offsets;
  for (int64_t c = 0; c < channels; ++c, x += plan.channel_pitch) {
    for (int64_t t = 0; t < taps; ++t, weights += kConvLanes) tile.Add(x + offsets[t], weights, block_pitch);
  }
  tile.Store(add, out, out_pitch);
}

// Copies a row of the data, with padding before and after it. With a stride, columns that neighbouring windows see
// become neighbours: all columns of the first phase, then those of the second, and so on.
template <typename T, typename V>
ONNX_CBP_INLINE void CopyRow(const WindowAxis& axis, int64_t pitch, const T* row, V* out) {
  if (axis.stride == 1) {
    int64_t i = 0;
    for (; i < axis.before; ++i) out[i] = V{0};
    int64_t at = 0;
    for (; at + kWidth<V> <= axis.size; at += kWidth<V>) StoreVector<false>(LoadVector<V>(row + at), out + i + at);
    for (; at < axis.size; ++at) out[i + at] = Single<V>{}(row + at);
    for (i += at; i < pitch; ++i) out[i] = V{0};
    return;
  }
  const int64_t of_phase = pitch / axis.stride;
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    for (int64_t i = 0; i < of_phase; ++i, ++out) {
      const int64_t column = i * axis.stride + phase - axis.before;
      *out = column < 0 || column >= axis.size ? V{0} : Single<V>{}(row + column);
    }
  }
}

// Copies the part of x that the step's windows see, with padding around it.
template <typename T, typename V>
void CopyPadded(const ConvPlan& plan, const ConvStep& step, const T* x, V* out) {
  const WindowAxis* axes = plan.windows.axes;
  const int64_t size = plan.windows.size(), rows = (step.rows - 1) * axes[1].stride + axes[1].extent();
  for (int64_t c = 0; c < plan.windows.channels; ++c) {
    const T* channel = x + (step.sample * plan.windows.channels + c) * size;
    for (int64_t k = 0; k < axes[0].kernel; ++k) {
      const int64_t plane = step.plane * axes[0].stride + k * axes[0].dilation - axes[0].before;
      V* to = out + c * plan.channel_pitch + k * plan.plane_pitch;
      for (int64_t r = 0; r < rows; ++r, to += plan.row_pitch) {
        const int64_t row = step.row * axes[1].stride + r - axes[1].before;
        if (plane < 0 || plane >= axes[0].size || row < 0 || row >= axes[1].size) {
          for (int64_t i = 0; i < plan.row_pitch; ++i) to[i] = V{0};
        } else {
          CopyRow(axes[2], plan.row_pitch, channel + (plane * axes[1].size + row) * axes[2].size, to);
        }
      }
    }
  }
}

// Stores a block's results, [pixel][lane], as rows of channels.
template <typename T, typename V>
ONNX_CBP_INLINE void StoreBlock(const V* results, int64_t count, int64_t channels, int64_t plane, T* y) {
  constexpr int64_t kW = kWidth<V>;
  for (int64_t i = 0; i < count; i += kW) {
    for (int64_t lane = 0; lane < kConvLanes && lane < channels; lane += kW) {
      VectorOf<V> rows[kW];
#pragma GCC unroll 16
      for (int64_t r = 0; r < kW; ++r) rows[r] = LoadVector<V>(results + (i + r) * kConvLanes + lane);
      Transpose<V>(rows);
      T* to = y + lane * plane + i;
      if (count - i >= kW && channels - lane >= kW) {
#pragma GCC unroll 16
        for (int64_t r = 0; r < kW; ++r) StoreVector<false>(rows[r], to + r * plane);
      } else {
        const int part = static_cast<int>(count - i < kW ? count - i : kW);
        for (int64_t r = 0; r < kW && lane + r < channels; ++r) StorePart<V>(rows[r], to + r * plane, part);
      }
    }
  }
}

// Computes a step's results in kBlocks blocks of outputs, from `block` on.
template <int kBlocks, typename T, typename V>
ONNX_CBP_INLINE void MakeBlocks(const ConvPlan& plan, const ConvStep& step, int64_t block, const V* padded,
                                const V* weights, V* buffer, T* y) {
  const WindowAxis* axes = plan.windows.axes;
  const int64_t columns = axes[2].count, channels = plan.windows.channels, taps = plan.taps();
  const int64_t block_pitch = channels * taps * kConvLanes, count = plan.windows.count();
  const int64_t run = kRun / taps > 0 ? kRun / taps : 1;
  const int64_t buffered = ConvBuffered(plan), out_pitch = (buffered + kWidth<V>)*kConvLanes;
  weights += block * block_pitch;
  int64_t filled = 0, stored = (step.plane * axes[1].count + step.row) * columns;
  for (int64_t r = 0; r < step.rows; ++r) {
    const V* row = padded + r * axes[1].stride * plan.row_pitch;
    ForEachTile<NeighboursTogether<kBlocks, V>()>(columns, [&](int64_t column, auto count) {
      for (int64_t c = 0; c < channels; c += run) {
        AddTile<kBlocks, count.value>(plan, row + column + c * plan.channel_pitch, weights + c * taps * kConvLanes,
                                      block_pitch, channels - c < run ? channels - c : run, c > 0,
                                      buffer + (filled + column) * kConvLanes, out_pitch);
      }
    });
    filled += columns;
    if (filled == buffered || r + 1 == step.rows) {
      for (int b = 0; b < kBlocks; ++b) {
        const int64_t o = (block + b) * kConvLanes;
        const int64_t left = plan.outputs() - o;
        StoreBlock(buffer + b * out_pitch, filled, left < kConvLanes ? left : kConvLanes, count,
                   y + (step.sample * plan.outputs() + o) * count + stored);
      }
      stored += filled;
      filled = 0;
    }
  }
}

}  // namespace

template <typename T, typename V>
void ConvTiles(const ConvPlan& plan, int64_t index, int64_t first, int64_t last, const T* x, const V* weights,
               V* scratch, T* y) {
  const ConvStep step(plan, index);
  CopyPadded(plan, step, x, scratch);
  V* buffer = scratch + plan.windows.channels * plan.channel_pitch;
  int64_t block = first;
  if constexpr (kBlocksTogether<V> > 1) {
    for (; block + 1 < last; block += 2) MakeBlocks<2>(plan, step, block, scratch, weights, buffer, y);
  }
  for (; block < last; ++block) MakeBlocks<1>(plan, step, block, scratch, weights, buffer, y);
}

#define ONNX_CBP_INSTANTIATE(T, V) \
  template void ConvTiles<T, V>(const ConvPlan&, int64_t, int64_t, int64_t, const T*, const V*, V*, T*);
ONNX_CBP_INSTANTIATE(float, float)
ONNX_CBP_INSTANTIATE(double, double)
ONNX_CBP_INSTANTIATE(Float16, float)
ONNX_CBP_INSTANTIATE(BFloat16, float)
#undef ONNX_CBP_INSTANTIATE

}  // namespace onnx_cbp::ONNX_CBP_TARGET
