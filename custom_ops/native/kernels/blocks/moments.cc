#include "moments.h"

#include <cmath>

#include "../clones.h"
#include "../lanes.h"
#include "../traverse.h"

namespace onnx_cbp {
namespace {

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
  std::vector<double> sums(channels * kLanes), squares(channels * kLanes);
  Block first = block;
  first.outer_end = block.outer_begin + 1;
  ForEachPlane(layout, first, [&](int64_t c, int64_t offset) {
    const int64_t count = std::min(length, kPivotElements);
    const T* plane = x + offset;
    Lanes sum;
    ForEachLane(
        count, [&](int which, int64_t i) { sum.vectors[which] += LoadVector(plane + i); },
        [&](int lane, int64_t i) { sum.Add(lane, Load(plane[i])); });
    pivots[static_cast<size_t>(c)] = PivotOf(sum.Sum(), static_cast<double>(count));
  });
  ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
    const double pivot = pivots[static_cast<size_t>(c)];
    const T* plane = x + offset;
    // Copies, so that the compiler keeps them in registers. They are added up once, at the end: planes may be short.
    Lanes sum = Lanes::Load(&sums[static_cast<size_t>(c * kLanes)]);
    Lanes square = Lanes::Load(&squares[static_cast<size_t>(c * kLanes)]);
    ForEachLane(
        length,
        [&](int which, int64_t i) {
          const Doubles shifted = LoadVector(plane + i) - pivot;
          sum.vectors[which] += shifted;
          square.vectors[which] += shifted * shifted;
        },
        [&](int lane, int64_t i) {
          const double shifted = static_cast<double>(Load(plane[i])) - pivot;
          sum.Add(lane, shifted);
          square.Add(lane, shifted * shifted);
        });
    sum.Save(&sums[static_cast<size_t>(c * kLanes)]);
    square.Save(&squares[static_cast<size_t>(c * kLanes)]);
  });
  for (size_t c = 0; c < channels; ++c) {
    moments[c] = FromShiftedSums(pivots[c], Lanes::Load(&sums[c * kLanes]).Sum(),
                                 Lanes::Load(&squares[c * kLanes]).Sum(), static_cast<double>(block.count()));
  }
}

template <typename T>
ONNX_CBP_CLONES void RowMoments(const Layout& layout, const Block& block, const T* x, Moments* moments) {
  const int64_t channels = block.channels();
  const int64_t length = channels * layout.inner;
  const int64_t pivot_rows = std::min(block.outer_end - block.outer_begin, kPivotRows);
  std::vector<double> sums(static_cast<size_t>(length)), squares(sums.size()), pivots(static_cast<size_t>(channels));
  Block first = block;
  first.outer_end = block.outer_begin + pivot_rows;
  ForEachRow(layout, first, [&](int64_t offset) {
    for (int64_t i = 0; i < length; ++i) sums[static_cast<size_t>(i)] += Load(x[offset + i]);
  });
  const auto sum_of = [&](const std::vector<double>& row, int64_t c) {
    double sum = 0.0;
    for (int64_t i = c * layout.inner; i < (c + 1) * layout.inner; ++i) sum += row[static_cast<size_t>(i)];
    return sum;
  };
  for (int64_t c = 0; c < channels; ++c) {
    pivots[static_cast<size_t>(c)] = PivotOf(sum_of(sums, c), static_cast<double>(pivot_rows * layout.inner));
  }
  const std::vector<double> pivot_row = RepeatForRow(layout, block, pivots.data());
  std::fill(sums.begin(), sums.end(), 0.0);
  const int64_t stride = layout.channels * layout.inner;
  double* const sum_row = sums.data();
  double* const square_row = squares.data();
  const double* const pivot_of = pivot_row.data();
  ForEachRowGroup(layout, block, [&](auto rows, int64_t offset) {
    int64_t i = 0;
    for (; i + kVector <= length; i += kVector) {
      Doubles sum = LoadVector(sum_row + i), square = LoadVector(square_row + i);
      const Doubles pivot = LoadVector(pivot_of + i);
      for (int64_t row = 0; row < rows; ++row) {
        const Doubles shifted = LoadVector(x + offset + row * stride + i) - pivot;
        sum += shifted;
        square += shifted * shifted;
      }
      StoreVector(sum, sum_row + i);
      StoreVector(square, square_row + i);
    }
    for (; i < length; ++i) {
      for (int64_t row = 0; row < rows; ++row) {
        const double shifted = static_cast<double>(Load(x[offset + row * stride + i])) - pivot_of[i];
        sum_row[i] += shifted;
        square_row[i] += shifted * shifted;
      }
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    moments[c] = FromShiftedSums(pivots[static_cast<size_t>(c)], sum_of(sums, c), sum_of(squares, c),
                                 static_cast<double>(block.count()));
  }
}

// Chan's merge. The mean is merged as a weighted sum, so that an infinite mean stays infinite.
Moments Merge(const Moments& a, double count_a, const Moments& b, double count_b) {
  const double count = count_a + count_b;
  const double delta = b.mean - a.mean;
  return {a.mean * (count_a / count) + b.mean * (count_b / count),
          a.m2 + b.m2 + delta * delta * (count_a * (count_b / count))};
}

}  // namespace

template <typename T>
void BlockMoments(const Layout& layout, const Block& block, const T* x, Moments* moments) {
  if (SumsByRow(layout)) {
    RowMoments(layout, block, x, moments);
  } else {
    PlaneMoments(layout, block, x, moments);
  }
}

template void BlockMoments(const Layout&, const Block&, const float*, Moments*);
template void BlockMoments(const Layout&, const Block&, const double*, Moments*);
template void BlockMoments(const Layout&, const Block&, const Float16*, Moments*);
template void BlockMoments(const Layout&, const Block&, const BFloat16*, Moments*);

void MergeMoments(const Partition& partition, const Layout& layout, const Moments* partial, int64_t channel_begin,
                  int64_t channel_end, double* mean, double* var) {
  std::vector<Moments> merged(static_cast<size_t>(channel_end - channel_begin));
  double count = 0.0;
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Moments* next = partial + part * layout.channels + channel_begin;
    const double next_count = static_cast<double>(partition.count(part));
    for (size_t c = 0; c < merged.size(); ++c) {
      merged[c] = part == 0 ? next[c] : Merge(merged[c], count, next[c], next_count);
    }
    count += next_count;
  }
  for (size_t c = 0; c < merged.size(); ++c) {
    mean[channel_begin + static_cast<int64_t>(c)] = merged[c].mean;
    var[channel_begin + static_cast<int64_t>(c)] = layout.empty() ? 0.0 : merged[c].m2 / count;
  }
}

}  // namespace onnx_cbp
