#include "channel_stats.h"

#include <cmath>
#include <vector>

#include "clones.h"
#include "lanes.h"
#include "traverse.h"

namespace onnx_cbp {
namespace {

// Count, mean and sum of squared deviations of one part of a channel.
struct Moments {
  double mean = 0.0;
  double m2 = 0.0;
};

// From sums of (x - pivot) and (x - pivot)^2.
Moments FromShiftedSums(double pivot, double sum, double squares, double count) {
  const double shift = sum / count;
  const double m2 = squares - sum * shift;
  return {pivot + shift, m2 < 0.0 ? 0.0 : m2};
}

// A value near the mean of the numbers: sums around it lose no digits. Around Inf or NaN every
// difference would be NaN.
double PivotOf(double sum, double count) {
  const double pivot = sum / count;
  return std::isfinite(pivot) ? pivot : 0.0;
}

constexpr int64_t kPivotElements = 256;
constexpr int64_t kPivotRows = 16;

template <typename T>
ONNX_CBP_CLONES void PlaneMoments(const Layout& layout, const Block& block, const T* x, Moments* moments) {
  const int64_t length = block.inner();
  const size_t channels = static_cast<size_t>(block.channels());
  std::vector<double> pivots(channels);
  std::vector<Lanes> sums(channels), squares(channels);
  ForEachPlane(layout,
               {block.outer_begin, block.outer_begin + 1, block.channel_begin, block.channel_end, block.inner_begin,
                block.inner_end},
               [&](int64_t c, int64_t offset) {
                 const int64_t count = std::min(length, kPivotElements);
                 Lanes lanes;
                 ForEachLane(count, [&](int lane, int64_t i) { lanes.value[lane] += Load(x[offset + i]); });
                 pivots[static_cast<size_t>(c)] = PivotOf(lanes.Sum(), static_cast<double>(count));
               });
  ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
    const double pivot = pivots[static_cast<size_t>(c)];
    const T* plane = x + offset;
    // Copies, so that the compiler keeps them in registers. They are added up once, at the end:
    // planes may be short.
    Lanes sum = sums[static_cast<size_t>(c)], square = squares[static_cast<size_t>(c)];
    ForEachLane(length, [&](int lane, int64_t i) {
      const double shifted = static_cast<double>(Load(plane[i])) - pivot;
      sum.value[lane] += shifted;
      square.value[lane] += shifted * shifted;
    });
    sums[static_cast<size_t>(c)] = sum;
    squares[static_cast<size_t>(c)] = square;
  });
  for (size_t c = 0; c < channels; ++c) {
    moments[c] = FromShiftedSums(pivots[c], sums[c].Sum(), squares[c].Sum(), static_cast<double>(block.count()));
  }
}

template <typename T>
ONNX_CBP_CLONES void RowMoments(const Layout& layout, const Block& block, const T* x, Moments* moments) {
  const size_t channels = static_cast<size_t>(block.channels());
  const size_t inner = static_cast<size_t>(layout.inner);
  const size_t length = channels * inner;
  const int64_t pivot_rows = std::min(block.outer_end - block.outer_begin, kPivotRows);
  std::vector<double> sums(length), squares(length), pivots(channels);
  Block first = block;
  first.outer_end = block.outer_begin + pivot_rows;
  ForEachRow(layout, first, [&](int64_t offset) {
    for (size_t i = 0; i < length; ++i) sums[i] += Load(x[offset + static_cast<int64_t>(i)]);
  });
  const auto sum_of = [&](const std::vector<double>& row, size_t c) {
    double sum = 0.0;
    for (size_t i = c * inner; i < (c + 1) * inner; ++i) sum += row[i];
    return sum;
  };
  for (size_t c = 0; c < channels; ++c) {
    pivots[c] = PivotOf(sum_of(sums, c), static_cast<double>(pivot_rows * layout.inner));
  }
  const std::vector<double> pivot_row = RepeatForRow(layout, block, pivots.data());
  std::fill(sums.begin(), sums.end(), 0.0);
  const int64_t stride = layout.channels * layout.inner;
  ForEachRowGroup(layout, block, [&](auto rows, int64_t offset) {
    for (size_t i = 0; i < length; ++i) {
      const T* element = x + offset + i;
      double sum = sums[i], square = squares[i];
      for (int64_t row = 0; row < rows; ++row) {
        const double shifted = static_cast<double>(Load(element[row * stride])) - pivot_row[i];
        sum += shifted;
        square += shifted * shifted;
      }
      sums[i] = sum;
      squares[i] = square;
    }
  });
  for (size_t c = 0; c < channels; ++c) {
    moments[c] = FromShiftedSums(pivots[c], sum_of(sums, c), sum_of(squares, c), static_cast<double>(block.count()));
  }
}

// Chan's merge. The mean is merged as a weighted sum, so that an infinite mean stays infinite.
Moments Merge(const Moments& a, double count_a, const Moments& b, double count_b) {
  const double count = count_a + count_b;
  const double delta = b.mean - a.mean;
  return {a.mean * (count_a / count) + b.mean * (count_b / count),
          a.m2 + b.m2 + delta * delta * (count_a * (count_b / count))};
}

template <typename T, typename U>
void Run(const Executor& executor, const Layout& layout, const T* x, U* mean, U* var) {
  const Partition partition(layout);
  std::vector<Moments> partial(static_cast<size_t>(partition.parts() * layout.channels));
  executor.ForEach(partition.tasks(), [&](int64_t task) {
    const Block block = partition.block(task);
    Moments* moments = partial.data() + partition.part(task) * layout.channels + block.channel_begin;
    if (SumsByRow(layout)) {
      RowMoments(layout, block, x, moments);
    } else {
      PlaneMoments(layout, block, x, moments);
    }
  });
  std::vector<Moments> merged(static_cast<size_t>(layout.channels));
  double count = 0.0;
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Moments* next = partial.data() + part * layout.channels;
    const double next_count = static_cast<double>(partition.count(part));
    for (size_t c = 0; c < merged.size(); ++c) {
      merged[c] = part == 0 ? next[c] : Merge(merged[c], count, next[c], next_count);
    }
    count += next_count;
  }
  for (size_t c = 0; c < merged.size(); ++c) {
    mean[c] = static_cast<U>(merged[c].mean);
    var[c] = static_cast<U>(layout.empty() ? 0.0 : merged[c].m2 / count);
  }
}

}  // namespace

bool ChannelStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x, void* mean,
                  void* var, int64_t* count) {
  *count = layout.outer * layout.inner;
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    Run(executor, layout, static_cast<const T*>(x), static_cast<U*>(mean), static_cast<U*>(var));
  });
}

}  // namespace onnx_cbp
