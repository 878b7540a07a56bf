// Sums of the output gradient, and of its product with x, for each channel of a piece, on vectors.
#include "sums.h"

// A Zen 4 takes longer to convert eight floats to double at once than four, twice.
#define ONNX_CBP_HALF_VECTORS
#include "../../dividing/traverse.h"
#include "relu.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// kFloats neighbouring elements of dy, masked, and of x, in double.
struct Pairs {
  Doubles dy[2], x[2];

  // Two masks for the two vectors, for masks that are cheapest in double.
  template <typename T, typename Mask>
  ONNX_CBP_INLINE Pairs(const T* gradients, const T* elements, int64_t at, const Mask& mask, const Mask& second) {
    if constexpr (std::is_same_v<typename Mask::Value, double>) {
      for (int half = 0; half < 2; ++half) {
        const int64_t i = at + half * kDoubles;
        x[half] = LoadVector<double>(elements + i);
        dy[half] = (half == 0 ? mask : second).Pass(LoadVector<double>(gradients + i), x[half], i, Whole<double>{});
      }
    } else {
      const Floats narrow = LoadVector<float>(elements + at);
      Widen(narrow, &x[0], &x[1]);
      Widen(mask.Pass(LoadVector<float>(gradients + at), narrow, at, Whole<float>{}), &dy[0], &dy[1]);
    }
  }
};

// One element of dy, masked.
template <typename T, typename Mask>
ONNX_CBP_INLINE double Passed(const T* dy, const T* x, int64_t at, const Mask& mask) {
  using V = typename Mask::Value;
  const Single<V> read;
  return static_cast<double>(mask.Pass(read(dy + at), read(x + at), at, read));
}

// Adds dy * (x + shift) and dy to their sums. `plus` adds on the multiplying unit, since conversions and the sum of dy
// keep the adding unit busy.
ONNX_CBP_INLINE void Add(Doubles dy, Doubles x, Doubles shift, const Adder& plus, Doubles* product, Doubles* gradient) {
  *product = MulAdd(dy, plus(x, shift), *product);
  *gradient += dy;
}
ONNX_CBP_INLINE void AddSingle(double dy, double x, double shift, double* product, double* gradient) {
  *product = MulAdd(dy, x + shift, *product);
  *gradient += dy;
}

// Whether products are first summed in short runs of float: for 16-bit numbers float is as good as exact.
template <typename T, typename V>
constexpr bool kInFloat = std::is_same_v<V, float> && sizeof(T) < sizeof(float);

// Adds a run of elements, a multiple of kLanes and at most kFloatAdditions times kLanes.
template <typename T, typename Mask>
ONNX_CBP_INLINE void AddInFloat(const T* dy, const T* x, int64_t at, int64_t end, Floats shift, const Mask& mask,
                                Lanes* product, Lanes* gradient) {
  constexpr int kVectors = kLanes / kFloats;
  Floats products[kVectors] = {}, gradients[kVectors] = {};
  for (; at < end; at += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kFloats;
      const Floats x_i = LoadVector<float>(x + i);
      const Floats dy_i = mask.Pass(LoadVector<float>(dy + i), x_i, i, Whole<float>{});
      products[v] = MulAdd(dy_i, x_i + shift, products[v]);
      gradients[v] += dy_i;
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    Doubles low, high;
    Widen(products[v], &low, &high);
    product->vectors[2 * v] += low;
    product->vectors[2 * v + 1] += high;
    Widen(gradients[v], &low, &high);
    gradient->vectors[2 * v] += low;
    gradient->vectors[2 * v + 1] += high;
  }
}

// Adds kFloats elements to two vectors of the lanes, from vector v on.
template <typename T, typename Mask>
ONNX_CBP_INLINE void AddPairs(const T* dy, const T* x, int64_t at, Doubles shift, const Mask& mask, const Adder& plus,
                              int v, Lanes* product, Lanes* gradient) {
  const Pairs pairs(dy, x, at, mask, mask);
  for (int half = 0; half < 2; ++half) {
    Add(pairs.dy[half], pairs.x[half], shift, plus, &product->vectors[v + half], &gradient->vectors[v + half]);
  }
}

// Vectors cover multiples of kUnit elements of a plane, and the rest is added one by one. This is the same for every
// target, since the order of additions to a lane depends on it.
constexpr int64_t kUnit = 8;

// Adds the elements of a plane from `at` up to `end`, a multiple of kUnit.
template <typename T, typename V, typename Mask>
ONNX_CBP_INLINE void AddPlane(const T* dy, const T* x, int64_t at, int64_t end, double shift, const Mask& mask,
                              const Adder& plus, Lanes* product, Lanes* gradient) {
  if constexpr (kInFloat<T, V>) {
    constexpr int64_t kRun = kFloatAdditions * kLanes;
    for (const int64_t last = end - (end - at) % kLanes; at < last;) {
      const int64_t next = last - at < kRun ? last : at + kRun;
      AddInFloat(dy, x, at, next, Broadcast(static_cast<float>(shift)), mask, product, gradient);
      at = next;
    }
  } else {
    for (; at + kLanes <= end; at += kLanes) {
      for (int v = 0; v < Lanes::kVectors; v += 2) {
        AddPairs(dy, x, at + v * kDoubles, Broadcast(shift), mask, plus, v, product, gradient);
      }
    }
  }
  for (int v = 0; v + 2 < Lanes::kVectors; v += 2) {
    if (at < end) {
      AddPairs(dy, x, at, Broadcast(shift), mask, plus, v, product, gradient);
      at += kFloats;
    }
  }
}

template <typename T, typename V, typename Mask>
void PlaneSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy, const Mask& mask,
               Sums* sums) {
  double products[Partition::kChannels][kLanes], gradients[Partition::kChannels][kLanes];
  for (int64_t c = 0; c < piece.channels(); ++c) {
    for (int lane = 0; lane < kLanes; ++lane) products[c][lane] = gradients[c][lane] = 0.0;
  }
  const int64_t length = piece.inner(), rest = length % kUnit;
  const Adder plus;
  ForEachPlaneGroup(layout, piece, [&](int64_t c, int64_t planes, int64_t offset) {
    const double shift = -mean[piece.channel_begin + c];
    const auto passing = mask.Plane(c);
    Lanes product = Lanes::Load(products[c]), gradient = Lanes::Load(gradients[c]);
    for (int64_t plane = 0; plane < planes; ++plane) {
      const int64_t at = offset + plane * layout.stride();
      AddPlane<T, V>(dy, x, at, at + length - rest, shift, passing, plus, &product, &gradient);
    }
    product.Save(products[c]);
    gradient.Save(gradients[c]);
    for (int64_t plane = 0; plane < planes && rest > 0; ++plane) {
      for (int64_t i = length - rest; i < length; ++i) {
        const int64_t at = offset + plane * layout.stride() + i;
        AddSingle(Passed(dy, x, at, passing), Single<double>{}(x + at), shift, &products[c][i % kLanes],
                  &gradients[c][i % kLanes]);
      }
    }
  });
  for (int64_t c = 0; c < piece.channels(); ++c)
    sums[c] = {SumOf(Lanes::Load(products[c])), SumOf(Lanes::Load(gradients[c]))};
}

template <typename T, typename Mask>
void RowSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy, const Mask& mask,
             Sums* sums) {
  const Rows rows(layout, piece);
  const auto row_mask = mask.OfRows(rows);
  using MaskVector = VectorOf<typename Mask::Value>;
  const Adder plus;
  double shifts[Rows::kSpace], products[Rows::kSpace], gradients[Rows::kSpace];
  rows.Spread(shifts, [&](int64_t c) { return -mean[piece.channel_begin + c]; });
  for (int64_t i = 0; i < rows.length; ++i) products[i] = gradients[i] = 0.0;
  ForEachRowGroup(rows, rows.contiguous() ? 1 : 4, [&](int64_t group, int64_t offset, int64_t length) {
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) {
      constexpr int kPairs = kLanes / kFloats;
      Lanes product = Lanes::Load(products + i), gradient = Lanes::Load(gradients + i);
      const Lanes shift = Lanes::Load(shifts + i);
      int64_t at = offset + i;
#pragma GCC unroll 1
      for (int64_t row = 0; row < group; ++row, at += rows.stride) {
        for (int p = 0; p < kPairs; ++p) {
          const int64_t first = i + p * kFloats;
          const Pairs pairs(dy, x, at + p * kFloats, row_mask.template At<MaskVector>(first),
                            row_mask.template At<MaskVector>(first + kDoubles));
          for (int v = 0; v < 2; ++v)
            Add(pairs.dy[v], pairs.x[v], shift.vectors[2 * p + v], plus, &product.vectors[2 * p + v],
                &gradient.vectors[2 * p + v]);
        }
      }
      product.Save(products + i);
      gradient.Save(gradients + i);
    }
    for (; i < length; ++i) {
      const auto passing = row_mask.template At<typename Mask::Value>(i);
      for (int64_t row = 0; row < group; ++row) {
        const int64_t at = offset + row * rows.stride + i;
        AddSingle(Passed(dy, x, at, passing), Single<double>{}(x + at), shifts[i], products + i, gradients + i);
      }
    }
  });
  double product_of[Rows::kSpace], gradient_of[Rows::kSpace];
  rows.Sum(products, product_of);
  rows.Sum(gradients, gradient_of);
  for (int64_t c = 0; c < rows.channels; ++c) sums[c] = {product_of[c], gradient_of[c]};
}

template <typename T, typename V, typename Mask>
void MaskedSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy, const Mask& mask,
                Sums* sums) {
  if (WalksByRow(layout)) {
    RowSums(layout, piece, x, mean, dy, mask, sums);
  } else {
    PlaneSums<T, V>(layout, piece, x, mean, dy, mask, sums);
  }
}

}  // namespace

template <typename T, typename V>
void PieceSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy,
               const ReluOf<T, V>& relu, Sums* sums) {
  if (relu.y != nullptr) {
    MaskedSums<T, V>(layout, piece, x, mean, dy, ResultMask<T>{relu.y}, sums);
  } else if (relu.coefficients != nullptr) {
    MaskedSums<T, V>(layout, piece, x, mean, dy, RecomputedMask<T, V>{relu.coefficients + piece.channel_begin}, sums);
  } else {
    MaskedSums<T, V>(layout, piece, x, mean, dy, NoMask{}, sums);
  }
}

#define ONNX_CBP_INSTANTIATE(T, V)                                                                                   \
  template void PieceSums<T, V>(const Layout&, const Piece&, const T*, const double*, const T*, const ReluOf<T, V>&, \
                                Sums*);
ONNX_CBP_FOR_EACH_TYPES(ONNX_CBP_INSTANTIATE)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
