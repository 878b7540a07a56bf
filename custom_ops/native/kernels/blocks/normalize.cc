#include "normalize.h"

#include "../clones.h"
#include "../traverse.h"

namespace onnx_cbp {
namespace {

template <bool kRelu, typename T, typename V>
ONNX_CBP_CLONES void Map(const Layout& layout, const Block& block, const NormalizeCoefficients<V>* coefficients,
                         const T* x, T* y) {
  using K = NormalizeCoefficients<V>;
  const auto element = [](V value, V center, V slope, V offset) {
    const V normal = (value - center) * slope + offset;
    // Written so that NaN stays NaN, as in ONNX's Relu.
    return kRelu && normal < V(0) ? V(0) : normal;
  };
  if (MapsByRow(layout)) {
    const std::vector<V> center = RepeatForRow(layout, block, coefficients, &K::center);
    const std::vector<V> slope = RepeatForRow(layout, block, coefficients, &K::slope);
    const std::vector<V> shift = RepeatForRow(layout, block, coefficients, &K::offset);
    ForEachRow(layout, block, [&](int64_t offset) {
      const T* in = x + offset;
      T* out = y + offset;
      for (size_t i = 0; i < center.size(); ++i) Store(element(Load(in[i]), center[i], slope[i], shift[i]), &out[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const K k = coefficients[c];
      const T* in = x + offset;
      T* out = y + offset;
      for (int64_t i = 0; i < block.inner(); ++i) Store(element(Load(in[i]), k.center, k.slope, k.offset), &out[i]);
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
