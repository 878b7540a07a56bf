// Mean and variance of each channel of a piece, on vectors.
#include "moments.h"

#include "../../dividing/traverse.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// Moments from the sums of (x - pivot) and of (x - pivot)^2.
ONNX_CBP_INLINE Moments FromShiftedSums(double pivot, double sum, double squares, double count) {
  const double shift = sum / count;
  const double m2 = squares - sum * shift;
  return {pivot + shift, m2 < 0.0 ? 0.0 : m2};
}

// A pivot near the mean of the numbers: sums of differences from it lose no digits. Not Inf or NaN, with which every
// difference would be NaN.
template <typename V>
ONNX_CBP_INLINE V PivotOf(double sum, int64_t count) {
  const V pivot = static_cast<V>(sum / static_cast<double>(count));
  return pivot - pivot == V(0) ? pivot : V(0);
}

// The sums of a run of numbers relative to a pivot, and of their squares, computed in V, in fixed lanes.
template <typename V>
struct Run {
  static constexpr int64_t kElements = 2 * kLanes;
  static constexpr int kVectors = kElements / kWidth<V>;

  ONNX_CBP_INLINE void Add(int v, VectorOf<V> x, VectorOf<V> pivot) {
    const VectorOf<V> shifted = x - pivot;
    sums[v] += shifted;
    squares[v] = MulAdd(shifted, shifted, squares[v]);
  }

  // Adds kElements elements.
  template <typename T>
  ONNX_CBP_INLINE void AddVectors(const T* elements, VectorOf<V> pivot) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Add(v, LoadVector<V>(elements + v * kWidth<V>), pivot);
  }

  template <typename T>
  ONNX_CBP_INLINE void AddAll(const T* elements, int64_t count, VectorOf<V> pivot) {
    int64_t i = 0;
    for (; i + kElements <= count; i += kElements) AddVectors(elements + i, pivot);
    AddRest(elements + i, count - i, pivot);
  }

  // Adds fewer than kElements elements.
  template <typename T>
  ONNX_CBP_INLINE void AddRest(const T* elements, int64_t count, VectorOf<V> pivot) {
    int64_t i = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v, i += kWidth<V>) {
      if (count - i >= kWidth<V>) {
        Add(v, LoadVector<V>(elements + i), pivot);
      } else if (count > i) {
        Add(v, LoadPart<V>(elements + i, static_cast<int>(count - i), pivot), pivot);
      }
    }
  }

  VectorOf<V> sums[kVectors] = {}, squares[kVectors] = {};
};

// Adds a vector to the numbers in memory.
ONNX_CBP_INLINE void AddTo(double* sums, Doubles vector) {
  StoreVector<false>(LoadVector<double>(sums) + vector, sums);
}
ONNX_CBP_INLINE void AddTo(double* sums, Floats vector) {
  Doubles low, high;
  Widen(vector, &low, &high);
  AddTo(sums, low);
  AddTo(sums + kDoubles, high);
}

// Adds a run's sums to sums in double: kLanes sums, followed by kLanes sums of squares.
template <typename V>
ONNX_CBP_INLINE void AddRun(const Run<V>& run, double* lanes) {
  constexpr int kHalf = Run<V>::kVectors / 2;
#pragma GCC unroll 8
  for (int v = 0; v < kHalf; ++v) {
    AddTo(lanes + v * kWidth<V>, run.sums[v] + run.sums[v + kHalf]);
    AddTo(lanes + kLanes + v * kWidth<V>, run.squares[v] + run.squares[v + kHalf]);
  }
}

// How many elements a run has at most.
template <typename V>
constexpr int64_t kLongRun = kFloatAdditions * Run<V>::kElements;

// Adds planes of a channel that form one run together.
template <typename T, typename V>
ONNX_CBP_INLINE void AddShortPlanes(const T* x, int64_t planes, int64_t stride, int64_t length, V pivot,
                                    double* lanes) {
  const VectorOf<V> pivots = Broadcast(pivot);
  Run<V> run;
  for (int64_t plane = 0; plane < planes; ++plane) run.AddAll(x + plane * stride, length, pivots);
  AddRun(run, lanes);
}

// Adds planes of a channel, each of which may have several runs.
template <typename T, typename V>
ONNX_CBP_INLINE void AddLongPlanes(const T* x, int64_t planes, int64_t stride, int64_t length, V pivot, double* lanes) {
  // Four planes are read faster together than one after another, if half of the registers hold all of their sums: for
  // floats on AVX-512.
  constexpr bool kTogether = 2 * Run<V>::kVectors * kPlanes <= 16;
  const VectorOf<V> pivots = Broadcast(pivot);
  for (int64_t begin = 0; begin < length; begin += kLongRun<V>) {
    const int64_t count = length - begin < kLongRun<V> ? length - begin : kLongRun<V>;
    const auto at = [&](int64_t plane) { return x + plane * stride + begin; };
    if (kTogether && planes == kPlanes) {
      Run<V> runs[kPlanes];
      int64_t i = 0;
      for (; i + Run<V>::kElements <= count; i += Run<V>::kElements) {
#pragma GCC unroll 4
        for (int plane = 0; plane < kPlanes; ++plane) runs[plane].AddVectors(at(plane) + i, pivots);
      }
#pragma GCC unroll 4
      for (int plane = 0; plane < kPlanes; ++plane) runs[plane].AddRest(at(plane) + i, count - i, pivots);
#pragma GCC unroll 4
      for (int plane = 0; plane < kPlanes; ++plane) AddRun(runs[plane], lanes);
    } else {
      for (int64_t plane = 0; plane < planes; ++plane) {
        Run<V> run;
        run.AddAll(at(plane), count, pivots);
        AddRun(run, lanes);
      }
    }
  }
}

template <typename T, typename V>
void PlaneMoments(const Layout& layout, const Piece& piece, const T* x, Moments* moments) {
  constexpr int64_t kPivotElements = 256;
  const int64_t length = piece.inner();
  const int64_t pivot_elements = length < kPivotElements ? length : kPivotElements;
  V pivots[Partition::kChannels];
  double lanes[Partition::kChannels][2 * kLanes];
  for (int64_t c = 0; c < piece.channels(); ++c) {
    const T* first = x + (piece.outer_begin * layout.channels + piece.channel_begin + c) * layout.inner;
    pivots[c] = PivotOf<V>(SumOf(first + piece.inner_begin, pivot_elements), pivot_elements);
    for (int lane = 0; lane < 2 * kLanes; ++lane) lanes[c][lane] = 0.0;
  }
  if (length * kPlanes <= kLongRun<V>) {
    ForEachPlaneGroup(layout, piece, [&](int64_t c, int64_t planes, int64_t offset) {
      AddShortPlanes(x + offset, planes, layout.stride(), length, pivots[c], lanes[c]);
    });
  } else {
    ForEachPlaneGroup(layout, piece, [&](int64_t c, int64_t planes, int64_t offset) {
      AddLongPlanes(x + offset, planes, layout.stride(), length, pivots[c], lanes[c]);
    });
  }
  for (int64_t c = 0; c < piece.channels(); ++c) {
    moments[c] = FromShiftedSums(static_cast<double>(pivots[c]), SumOf(Lanes::Load(lanes[c])),
                                 SumOf(Lanes::Load(lanes[c] + kLanes)), static_cast<double>(piece.count()));
  }
}

// A vector of x; where fewer elements are left, the filling is in the other lanes.
template <typename V, typename T>
ONNX_CBP_INLINE VectorOf<V> LoadSome(const T* x, int64_t left, VectorOf<V> filling) {
  if (left >= kWidth<V>) return LoadVector<V>(x);
  return left > 0 ? LoadPart<V>(x, static_cast<int>(left), filling) : filling;
}

// Computes pivots from the first rows: from so many rows that a single outlier, which also makes the variance large,
// moves the pivot little.
template <typename T, typename V>
ONNX_CBP_INLINE void RowPivots(const Layout& layout, const Piece& piece, const T* x, V* pivots) {
  const int64_t outer = piece.outer_end - piece.outer_begin;
  int64_t rows = 8;
  while (rows * rows < outer) rows *= 2;
  if (rows > outer) rows = outer;
  const int64_t length = piece.channels() * layout.inner, stride = layout.stride();
  const T* first = x + piece.outer_begin * stride + piece.channel_begin * layout.inner;
  double sums[Rows::kSpace];
  for (int64_t i = 0; i < length + kDoubles; ++i) sums[i] = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < length; i += kDoubles) {
      AddTo(sums + i, LoadSome<double>(first + row * stride + i, length - i, Doubles{}));
    }
  }
  for (int64_t c = 0; c < piece.channels(); ++c) {
    double sum = 0.0;
    for (int64_t i = 0; i < layout.inner; ++i) sum += sums[c * layout.inner + i];
    pivots[c] = PivotOf<V>(sum, rows * layout.inner);
  }
}

// The sums of every element of a row.
struct ElementSums {
  double sums[Rows::kSpace], squares[Rows::kSpace];
};

// Adds the first `count` elements of kRows rows to sums and to sums of squares.
template <int kRows, typename T, typename V>
ONNX_CBP_INLINE void AddElements(const T* x, int64_t stride, int64_t count, const V* pivots, V* sums, V* squares) {
  const VectorOf<V> pivot = LoadVector<V>(pivots);
  VectorOf<V> sum = LoadVector<V>(sums), square = LoadVector<V>(squares);
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    const VectorOf<V> shifted = LoadSome<V>(x + row * stride, count, pivot) - pivot;
    sum += shifted;
    square = MulAdd(shifted, shifted, square);
  }
  StoreVector<false>(sum, sums);
  StoreVector<false>(square, squares);
}

// Adds kRows rows.
template <int kRows, typename T, typename V>
ONNX_CBP_INLINE void AddRows(const T* x, int64_t stride, int64_t length, const V* pivots, V* sums, V* squares) {
  int64_t i = 0;
  for (; i + kWidth<V> <= length; i += kWidth<V>) {
    AddElements<kRows>(x + i, stride, kWidth<V>, pivots + i, sums + i, squares + i);
  }
  if (i < length) AddElements<kRows>(x + i, stride, length - i, pivots + i, sums + i, squares + i);
}

// Adds rows that lie apart: all rows for some columns, then for the next columns.
template <typename T, typename V>
ONNX_CBP_INLINE void AddApart(const T* x, int64_t rows, int64_t stride, int64_t length, const V* pivots,
                              ElementSums* to) {
  constexpr int kVectors = Run<V>::kVectors;
  for (int64_t i = 0; i < length; i += Run<V>::kElements) {
    Run<V> run;
    VectorOf<V> pivot[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) pivot[v] = LoadVector<V>(pivots + i + v * kWidth<V>);
    const T* at = x + i;
    if (length - i >= Run<V>::kElements) {
#pragma GCC unroll 1
      for (int64_t row = 0; row < rows; ++row, at += stride) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) run.Add(v, LoadVector<V>(at + v * kWidth<V>), pivot[v]);
      }
    } else {
#pragma GCC unroll 1
      for (int64_t row = 0; row < rows; ++row, at += stride) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const int64_t done = v * kWidth<V>;
          run.Add(v, LoadSome<V>(at + done, length - i - done, pivot[v]), pivot[v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      AddTo(to->sums + i + v * kWidth<V>, run.sums[v]);
      AddTo(to->squares + i + v * kWidth<V>, run.squares[v]);
    }
  }
}

// Adds rows that are neighbours in memory, in the order of memory.
template <typename T, typename V>
ONNX_CBP_INLINE void AddNeighbours(const T* x, int64_t rows, int64_t stride, int64_t length, const V* pivots,
                                   ElementSums* to) {
  constexpr int kTogether = 4;  // sums are read and written once for so many rows
  V sums[Rows::kSpace], squares[Rows::kSpace];
  for (int64_t i = 0; i < length + kWidth<V>; ++i) sums[i] = squares[i] = V(0);
  int64_t row = 0;
  for (; row + kTogether <= rows; row += kTogether) {
    AddRows<kTogether>(x + row * stride, stride, length, pivots, sums, squares);
  }
  for (; row < rows; ++row) AddRows<1>(x + row * stride, stride, length, pivots, sums, squares);
  for (int64_t i = 0; i < length; i += kWidth<V>) {
    AddTo(to->sums + i, LoadVector<V>(sums + i));
    AddTo(to->squares + i, LoadVector<V>(squares + i));
  }
}

template <typename T, typename V>
void RowMoments(const Layout& layout, const Piece& piece, const T* x, Moments* moments) {
  const Rows rows(layout, piece);
  V pivots[Rows::kSpace], pivot_row[Rows::kSpace];
  RowPivots(layout, piece, x, pivots);
  rows.Spread(pivot_row, [&](int64_t c) { return pivots[c]; });
  for (int64_t i = rows.length; i < rows.length + Run<V>::kElements; ++i) pivot_row[i] = V(0);
  ElementSums total;
  for (int64_t i = 0; i < rows.length + Run<V>::kElements; ++i) total.sums[i] = total.squares[i] = 0.0;
  if (rows.contiguous()) {
    ForEachRowGroup(rows, kFloatAdditions, [&](int64_t group, int64_t offset, int64_t length) {
      AddNeighbours(x + offset, group, rows.stride, length, pivot_row, &total);
    });
  } else {
    ForEachRowGroup(rows, kFloatAdditions / 2, [&](int64_t group, int64_t offset, int64_t length) {
      AddApart(x + offset, group, rows.stride, length, pivot_row, &total);
    });
  }
  double sum_of[Rows::kSpace], squares_of[Rows::kSpace];
  rows.Sum(total.sums, sum_of);
  rows.Sum(total.squares, squares_of);
  for (int64_t c = 0; c < rows.channels; ++c) {
    moments[c] =
        FromShiftedSums(static_cast<double>(pivots[c]), sum_of[c], squares_of[c], static_cast<double>(piece.count()));
  }
}

}  // namespace

template <typename T, typename V>
void PieceMoments(const Layout& layout, const Piece& piece, const T* x, Moments* moments) {
  if (WalksByRow(layout)) {
    RowMoments<T, V>(layout, piece, x, moments);
  } else {
    PlaneMoments<T, V>(layout, piece, x, moments);
  }
  if constexpr (std::is_same_v<V, float>) {
    bool finite = true;
    for (int64_t c = 0; c < piece.channels(); ++c) finite = finite && moments[c].m2 - moments[c].m2 == 0.0;
    // A square that overflows float need not overflow double. Inf and NaN give the same result as in double.
    if (!finite) ONNX_CBP_TARGET::PieceMoments<T, double>(layout, piece, x, moments);
  }
}

#define ONNX_CBP_INSTANTIATE(T, V) template void PieceMoments<T, V>(const Layout&, const Piece&, const T*, Moments*);
ONNX_CBP_FOR_EACH_TYPES(ONNX_CBP_INSTANTIATE)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
