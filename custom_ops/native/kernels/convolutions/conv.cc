// Dense convolutions (of one group), and the gradient of their weight.
#include <algorithm>
#include <memory>

#include "../element_types.h"
#include "../loops/convolutions/conv_products.h"
#include "../loops/convolutions/conv_tiles.h"
#include "../op.h"
#include "conv_plan.h"

namespace onnx_cbp {
namespace {

template <typename V>
std::unique_ptr<V[]> Room(int64_t numbers) {
  return std::unique_ptr<V[]>(new V[static_cast<size_t>(numbers)]);
}

// Packs the weights of a block of outputs, as [channel][element of the window][lane]. Lanes without an output are
// zeros.
template <typename T, typename V>
void PackWeights(const ConvPlan& plan, bool exchanged, const T* w, int64_t block, V* packed) {
  const int64_t channels = plan.windows.channels, taps = plan.taps();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t lane = 0; lane < kConvLanes; ++lane, ++packed) {
        const int64_t o = block * kConvLanes + lane;
        const int64_t at = exchanged ? (c * plan.outputs() + o) * taps + taps - 1 - t : (o * channels + c) * taps + t;
        *packed = o < plan.outputs() ? static_cast<V>(Load(w[at])) : V{0};
      }
    }
  }
}

template <typename T>
void Clear(T* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) Store(0.0f, out + i);
}
void Clear(double* out, int64_t count) { std::fill_n(out, count, 0.0); }

// y[n, o, i] = sum over c and k of w[o, c, k] * x[n, c, i * stride + k * dilation - before]. If w is exchanged, it is
// [channels of x, outputs, k...], and its elements are in reverse order.
template <typename Arguments>
bool Convolve(const DenseWindowsCall& call, const Arguments& a, bool exchanged) {
  const Executor& executor = call.executor;
  const Windows& windows = call.windows;
  return DispatchData(call.x_type, [&](auto t) {
    using T = decltype(t);
    using V = ComputeType<T, float>;
    const T *const x = a.x.template As<T>(), *const w = a.w.template As<T>();
    T* const y = a.y.template As<T>();
    const int64_t outputs = windows.outputs;
    if (windows.batch == 0 || outputs == 0) return;
    if (windows.channels == 0) return Clear(y, windows.batch * outputs * windows.count());
    const ConvPlanner planner = ConvPlanner::OfResults(windows);
    const ConvPlan& plan = planner.plan();
    const int64_t blocks = plan.blocks(), of_block = windows.channels * plan.taps() * kConvLanes;
    const std::unique_ptr<V[]> weights = Room<V>(blocks * of_block);
    executor.ForEach(blocks,
                     [&](int64_t block) { PackWeights(plan, exchanged, w, block, weights.get() + block * of_block); });
    // If there are few steps, blocks of outputs are separate tasks too. A task has four blocks, since two are computed
    // at once.
    const int64_t groups = plan.steps >= plan.parts ? 1 : (blocks + 3) / 4;
    executor.ForEach(plan.steps * groups, [&](int64_t task) {
      const std::unique_ptr<V[]> scratch =
          Room<V>(windows.channels * plan.channel_pitch + 2 * (ConvBuffered(plan) + kConvLanes) * kConvLanes);
      const int64_t first = groups == 1 ? 0 : task % groups * 4;
      const int64_t last = groups == 1 ? blocks : std::min(first + 4, blocks);
      ConvTiles(plan, task / groups, first, last, x, static_cast<const V*>(weights.get()), scratch.get(), y);
    });
  });
}

// The weight's gradient for a block of outputs: adds up the sums of all parts, each of which has sums_of_block()
// numbers for each block of outputs.
template <typename T, typename V>
void StoreWeights(const ConvPlan& plan, const V* partial, int64_t block, T* dw) {
  const int64_t taps = plan.taps(), channels = plan.windows.channels;
  const int64_t of_part = plan.blocks() * plan.sums_of_block();
  const V* of_block = partial + block * plan.sums_of_block();
  for (int64_t o = block * kConvLanes; o < std::min(plan.outputs(), (block + 1) * kConvLanes); ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t at = ((c / kConvLanes * taps + tap) * kConvLanes + c % kConvLanes) * kConvLanes + o % kConvLanes;
        double sum = 0.0;
        for (int64_t part = 0; part < plan.parts; ++part) sum += static_cast<double>(of_block[part * of_part + at]);
        Store(sum, dw + (o * channels + c) * taps + tap);
      }
    }
  }
}

}  // namespace

bool DirectConv(const DenseWindowsCall& call, const DirectConvArguments& a) { return Convolve(call, a, false); }

bool DirectConvExchanged(const DenseWindowsCall& call, const DirectConvExchangedArguments& a) {
  return Convolve(call, a, true);
}

// dw[o, c, k] = sum over n and i of dy[n, o, i] * x[n, c, i * stride + k * dilation - before].
bool ConvGradWeight(const DenseWindowsCall& call, const ConvGradWeightArguments& a) {
  const Executor& executor = call.executor;
  const Windows& windows = call.windows;
  return DispatchData(call.x_type, [&](auto t) {
    using T = decltype(t);
    using V = ComputeType<T, float>;
    const T *const x = a.x.As<T>(), *const dy = a.dy.As<T>();
    T* out = a.dw.As<T>();
    const int64_t taps = windows.kernel(), channels = windows.channels, outputs = windows.outputs;
    if (windows.batch == 0 || outputs == 0 || channels == 0) return Clear(out, outputs * channels * taps);
    const ConvPlanner planner = ConvPlanner::OfWeight(windows);
    const ConvPlan& plan = planner.plan();
    const int64_t blocks = plan.blocks(), groups = (blocks + 3) / 4;
    const int64_t of_block = plan.sums_of_block(), of_part = blocks * of_block;
    const std::unique_ptr<V[]> partial = Room<V>(plan.parts * of_part);
    executor.ForEach(plan.parts * groups, [&](int64_t task) {
      const int64_t part = task / groups, first = task % groups * 4, last = std::min(first + 4, blocks);
      const std::unique_ptr<V[]> scratch =
          Room<V>(plan.samples * kConvLanes *
                  (plan.channel_blocks() * plan.channel_pitch + (last - first) * plan.rows * windows.axes[2].count));
      V* sums = partial.get() + part * of_part + first * of_block;
      std::fill_n(sums, (last - first) * of_block, V{0});
      const int64_t end = plan.steps * (part + 1) / plan.parts;
      for (int64_t step = plan.steps * part / plan.parts; step < end; ++step) {
        ConvProducts(plan, step, first, last, x, dy, scratch.get(), sums);
      }
    });
    executor.ForEach(blocks,
                     [&](int64_t block) { StoreWeights(plan, static_cast<const V*>(partial.get()), block, out); });
  });
}

}  // namespace onnx_cbp
