#include "backprop.h"

#include "../clones.h"
#include "../traverse.h"
#include "relu.h"

namespace onnx_cbp {
namespace {

template <typename T, typename V, typename Mask>
ONNX_CBP_CLONES void Map(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients,
                         const T* dy, Mask mask, const T* x, T* dx) {
  const auto element = [&](int64_t at, const BackpropCoefficients<V>& k) {
    const V gradient = mask(static_cast<V>(Load(dy[at])), at);
    Store(k.slope * (gradient - k.through_mean - (static_cast<V>(Load(x[at])) - k.center) * k.through_var), &dx[at]);
  };
  if (MapsByRow(layout)) {
    const auto row = RepeatForRow(layout, block, coefficients);
    ForEachRow(layout, block, [&](int64_t offset) {
      for (size_t i = 0; i < row.size(); ++i) element(offset + static_cast<int64_t>(i), row[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const BackpropCoefficients<V> k = coefficients[c];
      for (int64_t i = 0; i < block.inner(); ++i) element(offset + i, k);
    });
  }
}

}  // namespace

template <typename T, typename V>
void BackpropBlock(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients, const T* dy,
                   const T* y, const T* x, T* dx) {
  if (y == nullptr) {
    Map(layout, block, coefficients, dy, NoMask{}, x, dx);
  } else {
    Map(layout, block, coefficients, dy, ReluMask<T>{y}, x, dx);
  }
}

template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<float>*, const float*, const float*,
                            const float*, float*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<double>*, const float*,
                            const float*, const float*, float*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<double>*, const double*,
                            const double*, const double*, double*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<float>*, const Float16*,
                            const Float16*, const Float16*, Float16*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<double>*, const Float16*,
                            const Float16*, const Float16*, Float16*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<float>*, const BFloat16*,
                            const BFloat16*, const BFloat16*, BFloat16*);
template void BackpropBlock(const Layout&, const Block&, const BackpropCoefficients<double>*, const BFloat16*,
                            const BFloat16*, const BFloat16*, BFloat16*);

}  // namespace onnx_cbp
