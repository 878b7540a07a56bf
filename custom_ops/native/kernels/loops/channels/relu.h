// The gradient of a ReLU, as a part of the kernels that need it: a mask says which gradients pass.
#pragma once

#include "../../dividing/traverse.h"
#include "../../processors/simd.h"
#include "normalize.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// A kernel asks a mask for one plane (Plane), or for the rows of a piece (OfRows) and then for one element of a row
// (At). What it gets either lets a gradient pass or makes it zero (Pass), from x, the offset, and a function that reads
// at the offset: vectors or single elements. Value is the type in which this is cheapest.

// Lets every gradient pass.
struct NoMask {
  using Value = double;
  ONNX_CBP_INLINE NoMask Plane(int64_t) const { return {}; }
  ONNX_CBP_INLINE NoMask OfRows(const Rows&) const { return {}; }
  template <typename V>
  ONNX_CBP_INLINE NoMask At(int64_t) const {
    return {};
  }
  template <typename X, typename Reader>
  ONNX_CBP_INLINE X Pass(X gradient, X, int64_t, Reader) const {
    return gradient;
  }
};

// Lets gradients pass where the ReLU's result is positive.
template <typename T>
struct ResultMask {
  using Value = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const T* y;

  ONNX_CBP_INLINE ResultMask Plane(int64_t) const { return *this; }
  ONNX_CBP_INLINE ResultMask OfRows(const Rows&) const { return *this; }
  template <typename V>
  ONNX_CBP_INLINE ResultMask At(int64_t) const {
    return *this;
  }
  template <typename X, typename Reader>
  ONNX_CBP_INLINE X Pass(X gradient, X, int64_t at, Reader read) const {
    return read(y + at) > X{} ? gradient : X{};
  }
};

// Lets gradients pass where NormalizePiece had a positive result: repeats its arithmetic with the same coefficients.
template <typename T, typename V>
struct RecomputedMask {
  using Value = V;
  const NormalizeCoefficients<V>* coefficients;  // of the piece's channels

  template <typename C>
  struct OfElements {
    using Value = V;
    C center, slope, offset;
    template <typename X, typename Reader>
    ONNX_CBP_INLINE X Pass(X gradient, X x, int64_t, Reader) const {
      const X normal = MulAdd(x - center, X{} + slope, X{} + offset);
      return normal > X{} + RoundsToZero<T, V>() ? gradient : X{};
    }
  };

  struct Spread {
    V center[Rows::kSpace], slope[Rows::kSpace], offset[Rows::kSpace];
    template <typename X>
    ONNX_CBP_INLINE OfElements<X> At(int64_t i) const {
      if constexpr (std::is_same_v<X, V>) {
        return {center[i], slope[i], offset[i]};
      } else {
        return {LoadVector<V>(center + i), LoadVector<V>(slope + i), LoadVector<V>(offset + i)};
      }
    }
  };

  ONNX_CBP_INLINE OfElements<V> Plane(int64_t c) const {
    return {coefficients[c].center, coefficients[c].slope, coefficients[c].offset};
  }
  ONNX_CBP_INLINE Spread OfRows(const Rows& rows) const {
    Spread spread;
    rows.Spread(spread.center, [&](int64_t c) { return coefficients[c].center; });
    rows.Spread(spread.slope, [&](int64_t c) { return coefficients[c].slope; });
    rows.Spread(spread.offset, [&](int64_t c) { return coefficients[c].offset; });
    return spread;
  }
};

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
