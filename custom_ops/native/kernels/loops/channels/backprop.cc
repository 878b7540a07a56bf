// The input gradient of a normalisation, on vectors.
#include "backprop.h"

#include "map.h"
#include "relu.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

template <bool kStream, typename T, typename V, typename Mask>
void Map(const Layout& layout, const Piece& piece, const BackpropCoefficients<V>* coefficients, const T* dy,
         const Mask& mask, const T* x, T* dx) {
  using Vector = VectorOf<V>;
  const auto gradient = [](Vector dy_i, Vector x_i, Vector center, Vector slope, Vector through_mean,
                           Vector through_var) {
    return slope * MulAdd(x_i - center, through_var, dy_i - through_mean);
  };
  if (WalksByRow(layout)) {
    const Rows rows(layout, piece);
    const auto row_mask = mask.OfRows(rows);
    V center[Rows::kSpace], slope[Rows::kSpace], through_mean[Rows::kSpace], through_var[Rows::kSpace];
    rows.Spread(center, [&](int64_t c) { return coefficients[c].center; });
    rows.Spread(slope, [&](int64_t c) { return coefficients[c].slope; });
    rows.Spread(through_mean, [&](int64_t c) { return coefficients[c].through_mean; });
    rows.Spread(through_var, [&](int64_t c) { return coefficients[c].through_var; });
    ForEachRow(rows, [&](int64_t offset, int64_t length) {
      MapRun<kStream, V>(length, dx + offset, [&](int64_t i, auto load) {
        const Vector x_i = load(x + offset + i);
        const Vector dy_i = row_mask.template At<Vector>(i).Pass(load(dy + offset + i), x_i, offset + i, load);
        return gradient(dy_i, x_i, LoadVector<V>(center + i), LoadVector<V>(slope + i), LoadVector<V>(through_mean + i),
                        LoadVector<V>(through_var + i));
      });
    });
  } else {
    MapByPlanes<kStream, V>(layout, piece, dx, [&](int64_t c) {
      const auto passing = mask.Plane(c);
      return [=, center = Broadcast(coefficients[c].center), slope = Broadcast(coefficients[c].slope),
              through_mean = Broadcast(coefficients[c].through_mean),
              through_var = Broadcast(coefficients[c].through_var)](int64_t i, auto load) {
        const Vector x_i = load(x + i);
        return gradient(passing.Pass(load(dy + i), x_i, i, load), x_i, center, slope, through_mean, through_var);
      };
    });
  }
}

template <typename T, typename V, typename Mask>
void MaskedBackprop(const Layout& layout, const Piece& piece, const BackpropCoefficients<V>* coefficients, const T* dy,
                    const Mask& mask, const T* x, const Output<T>& dx) {
  if constexpr (kStreams<T, V>) {
    if (dx.stream) {
      Map<true>(layout, piece, coefficients, dy, mask, x, dx.elements);
      FinishStreams();
      return;
    }
  }
  Map<false>(layout, piece, coefficients, dy, mask, x, dx.elements);
}

}  // namespace

template <typename T, typename V>
void BackpropPiece(const Layout& layout, const Piece& piece, const BackpropCoefficients<V>* coefficients, const T* dy,
                   const ReluOf<T, V>& relu, const T* x, const Output<T>& dx) {
  const BackpropCoefficients<V>* own = coefficients + piece.channel_begin;
  if (relu.y != nullptr) {
    MaskedBackprop(layout, piece, own, dy, ResultMask<T>{relu.y}, x, dx);
  } else if (relu.coefficients != nullptr) {
    MaskedBackprop(layout, piece, own, dy, RecomputedMask<T, V>{relu.coefficients + piece.channel_begin}, x, dx);
  } else {
    MaskedBackprop(layout, piece, own, dy, NoMask{}, x, dx);
  }
}

#define ONNX_CBP_INSTANTIATE(T, V)                                                                         \
  template void BackpropPiece<T, V>(const Layout&, const Piece&, const BackpropCoefficients<V>*, const T*, \
                                    const ReluOf<T, V>&, const T*, const Output<T>&);
ONNX_CBP_FOR_EACH_TYPES(ONNX_CBP_INSTANTIATE)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
