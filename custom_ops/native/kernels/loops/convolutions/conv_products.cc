// Products of a convolution's data and output gradients, which add up to the gradient of its weight.
#include "conv_products.h"

#include "../channels/lanes_of_channels.h"
#include "conv_registers.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// The number of products in one run. Each run is summed by itself, and its sum is added to those of the runs before: so
// fewer roundings add up.
constexpr int64_t kRun = 128;

// Rows of windows, the same rows of some neighbouring samples.
struct WindowRows {
  int64_t samples, rows, columns;
  int64_t column_step, row_step, sample_step;  // from one to the next in x, in numbers
  int64_t dy_sample_step;
};

// Adds the products of kChannels neighbouring channels of x with kBlocks blocks of dy.
template <int kBlocks, int kChannels, typename V>
void AddProducts(const WindowRows& rows, const V* x, const V* dy, int64_t block_pitch, V* sums, int64_t sums_pitch) {
  RegisterTile<kBlocks, kChannels, V> tile;
  for (int64_t n = 0; n < rows.samples; ++n) {
    const V* factors = dy + n * rows.dy_sample_step;
    for (int64_t r = 0; r < rows.rows; ++r) {
      const V* seen = x + n * rows.sample_step + r * rows.row_step;
      for (int64_t i = 0; i < rows.columns; ++i, seen += rows.column_step, factors += kConvLanes) {
        tile.Add(seen, factors, block_pitch);
      }
    }
  }
  tile.Store(true, sums, sums_pitch);
}

// Adds the products of all blocks of channels and all elements of the window, for kBlocks blocks of outputs and some
// rows of windows.
template <int kBlocks, typename V>
ONNX_CBP_INLINE void AddBlocks(const ConvPlan& plan, const WindowRows& rows, const V* x, int64_t x_pitch, const V* dy,
                               int64_t dy_pitch, V* sums) {
  const int64_t taps = plan.taps(), channels = plan.windows.channels, blocks = plan.channel_blocks();
  const int64_t sums_pitch = plan.sums_of_block();
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t left = channels - block * kConvLanes;
    for (int64_t t = 0; t < taps; ++t, sums += kConvLanes * kConvLanes) {
      const V* seen = x + block * x_pitch + plan.offsets[t] * kConvLanes;
      ForEachTile<NeighboursTogether<kBlocks, V>()>(left < kConvLanes ? left : kConvLanes, [&](int64_t c, auto count) {
        AddProducts<kBlocks, count.value>(rows, seen + c, dy, dy_pitch, sums + c * kConvLanes, sums_pitch);
      });
    }
  }
}

// Where the copies of a step lie. That of x is [block of channels][sample][place][lane], with padding. That of dy is
// [block of outputs][sample][window][lane].
template <typename V>
struct StepCopies {
  int64_t x_sample, x_block, dy_sample, dy_block;
  V *x, *dy;

  ONNX_CBP_INLINE StepCopies(const ConvPlan& plan, V* scratch)
      : x_sample(plan.channel_pitch * kConvLanes),
        x_block(plan.samples * x_sample),
        dy_sample(plan.rows * plan.windows.axes[2].count * kConvLanes),
        dy_block(plan.samples * dy_sample),
        x(scratch),
        dy(scratch + plan.channel_blocks() * x_block) {}
};

// Copies the rows of x that the step's windows see.
template <typename T, typename V>
ONNX_CBP_INLINE void CopyData(const ConvPlan& plan, const ConvStep& step, const T* x, const StepCopies<V>& to) {
  const Windows& windows = plan.windows;
  const WindowAxis* axes = windows.axes;
  const int64_t size = windows.size(), blocks = plan.channel_blocks();
  for (int64_t i = 0; i < blocks * to.x_block; ++i) to.x[i] = V{0};  // no copy writes the padding
  const int64_t first_row = step.row * axes[1].stride - axes[1].before;
  const int64_t wanted = (step.rows - 1) * axes[1].stride + axes[1].extent();
  const int64_t begin = first_row < 0 ? 0 : first_row;
  const int64_t stop = first_row + wanted < axes[1].size ? first_row + wanted : axes[1].size;
  if (stop <= begin) return;
  for (int64_t n = 0; n < step.samples; ++n) {
    const T* sample = x + (step.sample + n) * windows.channels * size;
    for (int64_t block = 0; block < blocks; ++block) {
      const LanePlanes<T> planes(sample, block * kConvLanes, windows.channels, 1, size);
      for (int64_t k = 0; k < axes[0].kernel; ++k) {
        const int64_t plane = step.plane * axes[0].stride + k * axes[0].dilation - axes[0].before;
        if (plane < 0 || plane >= axes[0].size) continue;
        const int64_t place = k * plan.plane_pitch + (begin - first_row) * plan.row_pitch + axes[2].before;
        CopyToLanes(planes, (plane * axes[1].size + begin) * axes[2].size, (stop - begin) * axes[2].size,
                    to.x + block * to.x_block + n * to.x_sample + place * kConvLanes,
                    [&](int64_t i) { return plan.places[i]; });
      }
    }
  }
}

// Copies the step's rows of dy, for the blocks of outputs from `first` up to `last`.
template <typename T, typename V>
ONNX_CBP_INLINE void CopyGradients(const ConvPlan& plan, const ConvStep& step, int64_t first, int64_t last, const T* dy,
                                   const StepCopies<V>& to) {
  const WindowAxis* axes = plan.windows.axes;
  const int64_t count = plan.windows.count(), columns = axes[2].count;
  for (int64_t n = 0; n < step.samples; ++n) {
    const T* sample = dy + (step.sample + n) * plan.outputs() * count;
    for (int64_t block = first; block < last; ++block) {
      const LanePlanes<T> planes(sample, block * kConvLanes, plan.outputs(), 1, count);
      CopyToLanes(planes, (step.plane * axes[1].count + step.row) * columns, step.rows * columns,
                  to.dy + (block - first) * to.dy_block + n * to.dy_sample, [](int64_t i) { return i; });
    }
  }
}

}  // namespace

template <typename T, typename V>
void ConvProducts(const ConvPlan& plan, int64_t index, int64_t first, int64_t last, const T* x, const T* dy, V* scratch,
                  V* sums) {
  const ConvStep step(plan, index);
  const StepCopies<V> copies(plan, scratch);
  CopyData(plan, step, x, copies);
  CopyGradients(plan, step, first, last, dy, copies);
  // Some rows at a time: these stay in the caches while the loops pass over all blocks of channels and all elements of
  // the window.
  const WindowAxis* axes = plan.windows.axes;
  const int64_t columns = axes[2].count, of_sums = plan.sums_of_block();
  const int64_t most = kRun / columns > 0 ? kRun / columns : 1;
  const bool whole = step.samples * step.rows <= most;
  for (int64_t n = 0; n < (whole ? 1 : step.samples); ++n) {
    for (int64_t row = 0; row < step.rows; row += whole ? step.rows : most) {
      const int64_t left = step.rows - row;
      const WindowRows rows{whole ? step.samples : 1,
                            whole || left < most ? left : most,
                            columns,
                            axes[2].stride * kConvLanes,
                            axes[1].stride * plan.row_pitch * kConvLanes,
                            copies.x_sample,
                            copies.dy_sample};
      const V* seen = copies.x + n * copies.x_sample + row * rows.row_step;
      const V* factors = copies.dy + n * copies.dy_sample + row * columns * kConvLanes;
      int64_t block = 0;
      if constexpr (kBlocksTogether<V> > 1) {
        for (; block + 1 < last - first; block += 2) {
          AddBlocks<2>(plan, rows, seen, copies.x_block, factors + block * copies.dy_block, copies.dy_block,
                       sums + block * of_sums);
        }
      }
      for (; block < last - first; ++block) {
        AddBlocks<1>(plan, rows, seen, copies.x_block, factors + block * copies.dy_block, copies.dy_block,
                     sums + block * of_sums);
      }
    }
  }
}

#define ONNX_CBP_INSTANTIATE(T, V) \
  template void ConvProducts<T, V>(const ConvPlan&, int64_t, int64_t, int64_t, const T*, const T*, V*, V*);
ONNX_CBP_INSTANTIATE(float, float)
ONNX_CBP_INSTANTIATE(double, double)
ONNX_CBP_INSTANTIATE(Float16, float)
ONNX_CBP_INSTANTIATE(BFloat16, float)
#undef ONNX_CBP_INSTANTIATE

}  // namespace onnx_cbp::ONNX_CBP_TARGET
