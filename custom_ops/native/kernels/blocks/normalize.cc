#include "normalize.h"

#include "../clones.h"
#include "../traverse.h"

namespace onnx_cbp {
namespace {

template <bool kRelu, typename T, typename V>
ONNX_CBP_CLONES void Map(const Layout& layout, const Block& block, const NormalizeCoefficients<V>* coefficients,
                         const T* x, T* y) {
  const auto element = [](V value, const NormalizeCoefficients<V>& k) {
    const V normal = (value - k.center) * k.slope + k.offset;
    // Written so that NaN stays NaN, as in ONNX's Relu.
    return kRelu && normal < V(0) ? V(0) : normal;
  };
  if (MapsByRow(layout)) {
    const auto row = RepeatForRow(layout, block, coefficients);
    ForEachRow(layout, block, [&](int64_t offset) {
      const T* in = x + offset;
      T* out = y + offset;
      for (size_t i = 0; i < row.size(); ++i) Store(element(Load(in[i]), row[i]), &out[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const NormalizeCoefficients<V> k = coefficients[c];
      const T* in = x + offset;
      T* out = y + offset;
      for (int64_t i = 0; i < block.inner(); ++i) Store(element(Load(in[i]), k), &out[i]);
    });
  }
}

}  // namespace

template <typename T, typename V>
void NormalizeBlock(const Layout& layout, const Block& block, const NormalizeCoefficients<V>* coefficients, const T* x,
                    bool relu, T* y) {
  if (relu) {
    Map<true>(layout, block, coefficients, x, y);
  } else {
    Map<false>(layout, block, coefficients, x, y);
  }
}

template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<float>*, const float*, bool,
                             float*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<double>*, const float*, bool,
                             float*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<double>*, const double*, bool,
                             double*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<float>*, const Float16*, bool,
                             Float16*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<double>*, const Float16*, bool,
                             Float16*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<float>*, const BFloat16*, bool,
                             BFloat16*);
template void NormalizeBlock(const Layout&, const Block&, const NormalizeCoefficients<double>*, const BFloat16*, bool,
                             BFloat16*);

}  // namespace onnx_cbp
