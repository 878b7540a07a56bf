#include "backprop.h"

#include "../clones.h"
#include "../traverse.h"
#include "relu.h"

namespace onnx_cbp {
namespace {

template <typename T, typename V, typename Mask>
ONNX_CBP_CLONES void Map(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients,
                         const T* dy, Mask mask, const T* x, T* dx) {
  using K = BackpropCoefficients<V>;
  const auto element = [&](int64_t at, V center, V through_var, V through_mean, V slope) {
    const V gradient = mask(static_cast<V>(Load(dy[at])), at);
    Store(slope * (gradient - through_mean - (static_cast<V>(Load(x[at])) - center) * through_var), &dx[at]);
  };
  if (MapsByRow(layout)) {
    const std::vector<V> center = RepeatForRow(layout, block, coefficients, &K::center);
    const std::vector<V> through_var = RepeatForRow(layout, block, coefficients, &K::through_var);
    const std::vector<V> through_mean = RepeatForRow(layout, block, coefficients, &K::through_mean);
    const std::vector<V> slope = RepeatForRow(layout, block, coefficients, &K::slope);
    ForEachRow(layout, block, [&](int64_t offset) {
      for (size_t i = 0; i < center.size(); ++i) {
        element(offset + static_cast<int64_t>(i), center[i], through_var[i], through_mean[i], slope[i]);
      }
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const K k = coefficients[c];
      for (int64_t i = 0; i < block.inner(); ++i) {
        element(offset + i, k.center, k.through_var, k.through_mean, k.slope);
      }
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
