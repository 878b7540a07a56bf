// Normalisation, on vectors.
#include "normalize.h"

#include "map.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

template <bool kRelu, bool kStream, typename T, typename V>
void Map(const Layout& layout, const Piece& piece, const NormalizeCoefficients<V>* coefficients, const T* x, T* y) {
  using Vector = VectorOf<V>;
  const auto normal = [](Vector value, Vector center, Vector slope, Vector offset) {
    const Vector normal = MulAdd(value - center, slope, offset);
    // Written so that NaN stays NaN, as in ONNX's Relu.
    return kRelu ? (normal < Vector{} ? Vector{} : normal) : normal;
  };
  if (WalksByRow(layout)) {
    const Rows rows(layout, piece);
    V center[Rows::kSpace], slope[Rows::kSpace], shift[Rows::kSpace];
    rows.Spread(center, [&](int64_t c) { return coefficients[c].center; });
    rows.Spread(slope, [&](int64_t c) { return coefficients[c].slope; });
    rows.Spread(shift, [&](int64_t c) { return coefficients[c].offset; });
    ForEachRow(rows, [&](int64_t offset, int64_t length) {
      MapRun<kStream, V>(length, y + offset, [&](int64_t i, auto load) {
        return normal(load(x + offset + i), LoadVector<V>(center + i), LoadVector<V>(slope + i),
                      LoadVector<V>(shift + i));
      });
    });
  } else {
    MapByPlanes<kStream, V>(layout, piece, y, [&](int64_t c) {
      return [=, center = Broadcast(coefficients[c].center), slope = Broadcast(coefficients[c].slope),
              shift = Broadcast(coefficients[c].offset)](int64_t i, auto load) {
        return normal(load(x + i), center, slope, shift);
      };
    });
  }
}

}  // namespace

template <typename T, typename V>
void NormalizePiece(const Layout& layout, const Piece& piece, const NormalizeCoefficients<V>* coefficients, const T* x,
                    bool relu, const Output<T>& y) {
  const NormalizeCoefficients<V>* own = coefficients + piece.channel_begin;
  if constexpr (kStreams<T, V>) {
    if (y.stream) {
      relu ? Map<true, true>(layout, piece, own, x, y.elements) : Map<false, true>(layout, piece, own, x, y.elements);
      FinishStreams();
      return;
    }
  }
  relu ? Map<true, false>(layout, piece, own, x, y.elements) : Map<false, false>(layout, piece, own, x, y.elements);
}

#define ONNX_CBP_INSTANTIATE(T, V)                                                                                 \
  template void NormalizePiece<T, V>(const Layout&, const Piece&, const NormalizeCoefficients<V>*, const T*, bool, \
                                     const Output<T>&);
ONNX_CBP_FOR_EACH_TYPES(ONNX_CBP_INSTANTIATE)

}  // namespace onnx_cbp::ONNX_CBP_TARGET
