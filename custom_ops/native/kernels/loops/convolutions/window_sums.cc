#include "window_sums.h"

#include "../channels/lanes_of_channels.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// Elements of a window whose sums fit the registers together.
#if defined(ONNX_CBP_AVX512)
template <typename V>
constexpr int kTogether = 9;
#elif defined(__AVX2__) || defined(__ARM_NEON)
template <typename V>
constexpr int kTogether = std::is_same_v<V, double> ? 2 : 5;
#else
template <typename V>
constexpr int kTogether = std::is_same_v<V, double> ? 1 : 2;
#endif

// Products that are added in the type of the elements before the sum goes on in double. Few enough for less error than
// a sum in float alone, and many enough for going on to take little of the time.
template <typename V>
constexpr int64_t kRun = std::is_same_v<V, double> ? INT64_MAX : 64;

// A step's windows: some samples, or a band of one.
struct Step {
  int64_t samples;
  int64_t counts[Windows::kAxes];
};

// Adds to the sums of kTaps elements of the windows.
template <int kTaps, typename V>
ONNX_CBP_INLINE void AddTaps(const WindowPlan& plan, const Step& step, const V* x, const V* dy, const int64_t* offsets,
                             double* sums) {
  using Vector = VectorOf<V>;
  constexpr int kVectors = static_cast<int>(kWindowLanes / kWidth<V>);
  int64_t of_tap[kTaps];
  for (int t = 0; t < kTaps; ++t) of_tap[t] = offsets[t] * kWindowLanes;
  Vector sum[kTaps][kVectors];
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[t][v] = Vector{};
    }
  };
  const auto go_on = [&] {
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        double* wide = sums + t * kWindowLanes + v * kWidth<V>;
        if constexpr (std::is_same_v<V, double>) {
          StoreVector<false>(LoadVector<double>(wide) + sum[t][v], wide);
        } else {
          Doubles low, high;
          Widen(sum[t][v], &low, &high);
          StoreVector<false>(LoadVector<double>(wide) + low, wide);
          StoreVector<false>(LoadVector<double>(wide + kDoubles) + high, wide + kDoubles);
        }
      }
    }
    clear();
  };
  clear();
  const WindowAxis* axes = plan.windows.axes;
  const int64_t across = axes[2].stride * plan.pitch[2] * kWindowLanes;
  int64_t room = kRun<V>;
  for (int64_t n = 0; n < step.samples; ++n) {
    for (int64_t d = 0; d < step.counts[0]; ++d) {
      for (int64_t h = 0; h < step.counts[1]; ++h) {
        const int64_t row = d * axes[0].stride * plan.pitch[0] + h * axes[1].stride * plan.pitch[1];
        const V* seen = x + (n * plan.data_places + row) * kWindowLanes;
        for (int64_t left = step.counts[2]; left > 0;) {
          const int64_t run = left < room ? left : room;
          for (int64_t i = 0; i < run; ++i, seen += across, dy += kWindowLanes) {
            Vector factor[kVectors];
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) factor[v] = LoadVector<V>(dy + v * kWidth<V>);
#pragma GCC unroll 16
            for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
              for (int v = 0; v < kVectors; ++v) {
                sum[t][v] = MulAdd(LoadVector<V>(seen + of_tap[t] + v * kWidth<V>), factor[v], sum[t][v]);
              }
            }
          }
          left -= run;
          room -= run;
          if (room == 0) {
            go_on();
            room = kRun<V>;
          }
        }
      }
    }
  }
  go_on();
}

// The same for as many as are left.
template <int kTaps, typename V>
ONNX_CBP_INLINE void AddRest(int64_t taps, const WindowPlan& plan, const Step& step, const V* x, const V* dy,
                             const int64_t* offsets, double* sums) {
  if constexpr (kTaps > 0) {
    if (taps == kTaps) {
      AddTaps<kTaps>(plan, step, x, dy, offsets, sums);
    } else {
      AddRest<kTaps - 1>(taps, plan, step, x, dy, offsets, sums);
    }
  }
}

template <typename V>
void AddAll(const WindowPlan& plan, const Step& step, const V* x, const V* dy, double* sums) {
  const int64_t all = plan.windows.kernel();
  for (int64_t tap = 0; tap < all; tap += kTogether<V>) {
    const int64_t left = all - tap;
    AddRest<kTogether<V>>(left < kTogether<V> ? left : kTogether<V>, plan, step, x, dy, plan.offsets + tap,
                          sums + tap * kWindowLanes);
  }
}

template <typename V>
ONNX_CBP_INLINE void Clear(V* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) from[i] = V{0};
}

}  // namespace

template <typename T, typename V>
void WindowSums(const WindowPlan& plan, int64_t task, const T* x, const T* dy, V* scratch, double* sums) {
  const Windows& windows = plan.windows;
  const WindowAxis& lead = windows.axes[plan.lead];
  const int64_t first = task % plan.blocks() * kWindowLanes, part = task / plan.blocks();
  const int64_t size = windows.size(), count = windows.count(), results = windows.results();
  V* data = scratch;
  V* factors = scratch + plan.samples * plan.data_places * kWindowLanes;
  Clear(data, plan.samples * plan.data_places * kWindowLanes);
  Clear(sums, windows.kernel() * kWindowLanes);
  const int64_t end = (part + 1) * plan.steps_per_part;
  for (int64_t s = part * plan.steps_per_part; s < end && s < plan.steps; ++s) {
    const int64_t sample = s / plan.bands * plan.samples, row = s % plan.bands * plan.rows;
    Step step{plan.samples, {windows.axes[0].count, windows.axes[1].count, windows.axes[2].count}};
    if (windows.batch - sample < step.samples) step.samples = windows.batch - sample;
    const int64_t rows = lead.count - row < plan.rows ? lead.count - row : plan.rows;
    step.counts[plan.lead] = rows;
    // Of the padded data, the band has indices from row * stride on; of the data itself, from `begin` to `stop`.
    const int64_t from = row * lead.stride - lead.before, indices = (rows - 1) * lead.stride + lead.extent();
    const int64_t begin = from < 0 ? 0 : from, stop = from + indices < lead.size ? from + indices : lead.size;
    const int64_t skipped = begin - from < indices ? begin - from : indices, there = stop > begin ? stop - begin : 0;
    for (int64_t n = 0; n < step.samples; ++n) {
      V* of_sample = data + n * plan.data_places * kWindowLanes;
      if (plan.bands > 1) {  // where the band before had data, this one may have padding
        const int64_t lanes = plan.pitch[plan.lead] * kWindowLanes;
        Clear(of_sample, skipped * lanes);
        Clear(of_sample + (skipped + there) * lanes, (indices - skipped - there) * lanes);
      }
      const LanePlanes<T> planes(x + (sample + n) * windows.channels * size, first, results, windows.multiplier, size);
      CopyToLanes(planes, begin * plan.inner_size, there * plan.inner_size,
                  of_sample + skipped * plan.pitch[plan.lead] * kWindowLanes,
                  [&](int64_t i) { return plan.places[i]; });
      const LanePlanes<T> of_windows(dy + (sample + n) * results * count, first, results, 1, count);
      CopyToLanes(of_windows, row * plan.inner_count, rows * plan.inner_count,
                  factors + n * rows * plan.inner_count * kWindowLanes, [](int64_t i) { return i; });
    }
    AddAll(plan, step, data, factors, sums);
  }
}

#define ONNX_CBP_INSTANTIATE(T, V) \
  template void WindowSums<T, V>(const WindowPlan&, int64_t, const T*, const T*, V*, double*);
ONNX_CBP_INSTANTIATE(float, float)
ONNX_CBP_INSTANTIATE(double, double)
ONNX_CBP_INSTANTIATE(Float16, float)
ONNX_CBP_INSTANTIATE(BFloat16, float)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
