// Sums of products over the windows of a depthwise convolution.
#include "window_sums.h"

#include "../channels/lanes_of_channels.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// How many elements of a window fit the registers, if their sums are computed together.
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

// How many products are added in V before their sum goes on in double: so few that the error is less than that of a sum
// in float alone, and so many that the additions in double take little of the time.
template <typename V>
constexpr int64_t kRun = std::is_same_v<V, double> ? INT64_MAX : 64;

// What a step works on: some samples from `sample` on, some rows from `row` on along the lead axis, and how many
// windows these have.
struct WindowStep {
  int64_t sample, samples, row, rows;
  int64_t counts[Windows::kAxes];  // windows of a sample, along each axis

  ONNX_CBP_INLINE WindowStep(const WindowPlan& plan, int64_t step)
      : sample(step / plan.bands * plan.samples), row(step % plan.bands * plan.rows) {
    const WindowAxis* axes = plan.windows.axes;
    const int64_t samples_left = plan.windows.batch - sample, rows_left = axes[plan.lead].count - row;
    samples = samples_left < plan.samples ? samples_left : plan.samples;
    rows = rows_left < plan.rows ? rows_left : plan.rows;
    for (int a = 0; a < Windows::kAxes; ++a) counts[a] = a == plan.lead ? rows : axes[a].count;
  }
};

// The sums of kTaps elements of the windows, in registers.
template <int kTaps, typename V>
struct TapSums {
  static constexpr int kVectors = static_cast<int>(kWindowLanes / kWidth<V>);
  VectorOf<V> sum[kTaps][kVectors];

  ONNX_CBP_INLINE void Clear() {
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[t][v] = VectorOf<V>{};
    }
  }

  // Adds the products of one window: dy times the elements that the window sees.
  ONNX_CBP_INLINE void Add(const V* seen, const int64_t (&offsets)[kTaps], const V* dy) {
    VectorOf<V> factor[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) factor[v] = LoadVector<V>(dy + v * kWidth<V>);
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sum[t][v] = MulAdd(LoadVector<V>(seen + offsets[t] + v * kWidth<V>), factor[v], sum[t][v]);
      }
    }
  }

  // Adds the sums to those in memory, and sets them to zero.
  ONNX_CBP_INLINE void MoveTo(double* sums) {
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
    Clear();
  }
};

// Adds a step's products to the sums of kTaps elements of the window.
template <int kTaps, typename V>
ONNX_CBP_INLINE void AddTaps(const WindowPlan& plan, const WindowStep& step, const V* x, const V* dy,
                             const int64_t* offsets, double* sums) {
  int64_t of_tap[kTaps];
  for (int t = 0; t < kTaps; ++t) of_tap[t] = offsets[t] * kWindowLanes;
  TapSums<kTaps, V> taps;
  taps.Clear();
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
          for (int64_t i = 0; i < run; ++i, seen += across, dy += kWindowLanes) taps.Add(seen, of_tap, dy);
          left -= run;
          room -= run;
          if (room == 0) {
            taps.MoveTo(sums);
            room = kRun<V>;
          }
        }
      }
    }
  }
  taps.MoveTo(sums);
}

// AddTaps for a number of elements, at most kTaps, that is known only at run time.
template <int kTaps, typename V>
ONNX_CBP_INLINE void AddRest(int64_t taps, const WindowPlan& plan, const WindowStep& step, const V* x, const V* dy,
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
void AddAll(const WindowPlan& plan, const WindowStep& step, const V* x, const V* dy, double* sums) {
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

// Copies the part of x that the step's windows see, for the channels from `first` on, with padding around it.
template <typename T, typename V>
ONNX_CBP_INLINE void CopyData(const WindowPlan& plan, const WindowStep& step, int64_t first, const T* x, V* data) {
  const Windows& windows = plan.windows;
  const WindowAxis& lead = windows.axes[plan.lead];
  const int64_t size = windows.size();
  // The band covers `indices` places of the padded data along the lead axis. The first of them is at index `from` of
  // the data, which is negative in the padding. Only the indices from `begin` up to `stop` are data.
  const int64_t from = step.row * lead.stride - lead.before, indices = (step.rows - 1) * lead.stride + lead.extent();
  const int64_t begin = from < 0 ? 0 : from, stop = from + indices < lead.size ? from + indices : lead.size;
  const int64_t skipped = begin - from < indices ? begin - from : indices, there = stop > begin ? stop - begin : 0;
  const int64_t pitch = plan.pitch[plan.lead] * kWindowLanes;
  for (int64_t n = 0; n < step.samples; ++n) {
    V* to = data + n * plan.data_places * kWindowLanes;
    if (plan.bands > 1) {  // this band may have padding where the band before it had data
      Clear(to, skipped * pitch);
      Clear(to + (skipped + there) * pitch, (indices - skipped - there) * pitch);
    }
    const T* sample = x + (step.sample + n) * windows.channels * size;
    const LanePlanes<T> planes(sample, first, windows.results(), windows.multiplier, size);
    CopyToLanes(planes, begin * plan.inner_size, there * plan.inner_size, to + skipped * pitch,
                [&](int64_t i) { return plan.places[i]; });
  }
}

// Copies the step's rows of dy.
template <typename T, typename V>
ONNX_CBP_INLINE void CopyGradients(const WindowPlan& plan, const WindowStep& step, int64_t first, const T* dy,
                                   V* gradients) {
  const int64_t count = plan.windows.count(), results = plan.windows.results();
  const int64_t windows = step.rows * plan.inner_count;
  for (int64_t n = 0; n < step.samples; ++n) {
    const LanePlanes<T> planes(dy + (step.sample + n) * results * count, first, results, 1, count);
    CopyToLanes(planes, step.row * plan.inner_count, windows, gradients + n * windows * kWindowLanes,
                [](int64_t i) { return i; });
  }
}

}  // namespace

template <typename T, typename V>
void WindowSums(const WindowPlan& plan, int64_t task, const T* x, const T* dy, V* scratch, double* sums) {
  const int64_t first = task % plan.blocks() * kWindowLanes, part = task / plan.blocks();
  const int64_t copied = plan.samples * plan.data_places * kWindowLanes;
  V *data = scratch, *gradients = scratch + copied;
  Clear(data, copied);
  Clear(sums, plan.windows.kernel() * kWindowLanes);
  const int64_t begin = part * plan.steps_per_part, end = begin + plan.steps_per_part;
  for (int64_t i = begin; i < end && i < plan.steps; ++i) {
    const WindowStep step(plan, i);
    CopyData(plan, step, first, x, data);
    CopyGradients(plan, step, first, dy, gradients);
    AddAll(plan, step, data, gradients, sums);
  }
}

#define ONNX_CBP_INSTANTIATE(T, V) \
  template void WindowSums<T, V>(const WindowPlan&, int64_t, const T*, const T*, V*, double*);
ONNX_CBP_INSTANTIATE(float, float)
ONNX_CBP_INSTANTIATE(double, double)
ONNX_CBP_INSTANTIATE(Float16, float)
ONNX_CBP_INSTANTIATE(BFloat16, float)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
