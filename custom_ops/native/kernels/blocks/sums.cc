#include "sums.h"

#include <vector>

#include "../clones.h"
#include "../lanes.h"
#include "../traverse.h"
#include "relu.h"

namespace onnx_cbp {
namespace {

template <typename T, typename Mask>
ONNX_CBP_CLONES void PlaneSums(const Layout& layout, const Block& block, const T* x, const double* mean, const T* dy,
                               Mask mask, Sums* sums) {
  const size_t channels = static_cast<size_t>(block.channels());
  std::vector<double> products(channels * kLanes), gradients(channels * kLanes);
  ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
    const double center = mean[block.channel_begin + c];
    // Copies, so that the compiler keeps them in registers. They are added up once, at the end: planes may be short.
    Lanes product = Lanes::Load(&products[static_cast<size_t>(c * kLanes)]);
    Lanes gradient = Lanes::Load(&gradients[static_cast<size_t>(c * kLanes)]);
    ForEachLane(
        block.inner(),
        [&](int which, int64_t i) {
          const Doubles dy_i = mask.Vector(LoadVector(dy + offset + i), offset + i);
          product.vectors[which] += dy_i * (LoadVector(x + offset + i) - center);
          gradient.vectors[which] += dy_i;
        },
        [&](int lane, int64_t i) {
          const double dy_i = static_cast<double>(mask(Load(dy[offset + i]), offset + i));
          product.Add(lane, dy_i * (static_cast<double>(Load(x[offset + i])) - center));
          gradient.Add(lane, dy_i);
        });
    product.Save(&products[static_cast<size_t>(c * kLanes)]);
    gradient.Save(&gradients[static_cast<size_t>(c * kLanes)]);
  });
  for (size_t c = 0; c < channels; ++c) {
    sums[c] = {Lanes::Load(&products[c * kLanes]).Sum(), Lanes::Load(&gradients[c * kLanes]).Sum()};
  }
}

template <typename T, typename Mask>
ONNX_CBP_CLONES void RowSums(const Layout& layout, const Block& block, const T* x, const double* mean, const T* dy,
                             Mask mask, Sums* sums) {
  const std::vector<double> center_row = RepeatForRow(layout, block, mean + block.channel_begin);
  const int64_t length = static_cast<int64_t>(center_row.size());
  std::vector<double> products(center_row.size()), gradients(center_row.size());
  const int64_t stride = layout.channels * layout.inner;
  double* const product_row = products.data();
  double* const gradient_row = gradients.data();
  const double* const center_of = center_row.data();
  ForEachRowGroup(layout, block, [&](auto rows, int64_t offset) {
    int64_t i = 0;
    for (; i + kVector <= length; i += kVector) {
      Doubles product = LoadVector(product_row + i), gradient = LoadVector(gradient_row + i);
      const Doubles center = LoadVector(center_of + i);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = offset + row * stride + i;
        const Doubles dy_i = mask.Vector(LoadVector(dy + at), at);
        product += dy_i * (LoadVector(x + at) - center);
        gradient += dy_i;
      }
      StoreVector(product, product_row + i);
      StoreVector(gradient, gradient_row + i);
    }
    for (; i < length; ++i) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = offset + row * stride + i;
        const double dy_i = static_cast<double>(mask(Load(dy[at]), at));
        product_row[i] += dy_i * (static_cast<double>(Load(x[at])) - center_of[i]);
        gradient_row[i] += dy_i;
      }
    }
  });
  for (int64_t i = 0; i < length; ++i) {
    Sums& channel = sums[i / layout.inner];
    channel.product += product_row[i];
    channel.gradient += gradient_row[i];
  }
}

template <typename T, typename Mask>
void SumsOf(const Layout& layout, const Block& block, const T* x, const double* mean, const T* dy, Mask mask,
            Sums* sums) {
  if (SumsByRow(layout)) {
    RowSums(layout, block, x, mean, dy, mask, sums);
  } else {
    PlaneSums(layout, block, x, mean, dy, mask, sums);
  }
}

}  // namespace

template <typename T>
void BlockSums(const Layout& layout, const Block& block, const T* x, const double* mean, const T* dy, const T* y,
               Sums* sums) {
  if (y == nullptr) {
    SumsOf(layout, block, x, mean, dy, NoMask{}, sums);
  } else {
    SumsOf(layout, block, x, mean, dy, ReluMask<T>{y}, sums);
  }
}

template void BlockSums(const Layout&, const Block&, const float*, const double*, const float*, const float*, Sums*);
template void BlockSums(const Layout&, const Block&, const double*, const double*, const double*, const double*, Sums*);
template void BlockSums(const Layout&, const Block&, const Float16*, const double*, const Float16*, const Float16*,
                        Sums*);
template void BlockSums(const Layout&, const Block&, const BFloat16*, const double*, const BFloat16*, const BFloat16*,
                        Sums*);

void MergeSums(const Partition& partition, const Layout& layout, const Sums* partial, const double* inv_std,
               int64_t channel_begin, int64_t channel_end, double* scale_grad, double* bias_grad) {
  std::vector<Sums> total(static_cast<size_t>(channel_end - channel_begin));
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Sums* next = partial + part * layout.channels + channel_begin;
    for (size_t c = 0; c < total.size(); ++c) {
      total[c].product += next[c].product;
      total[c].gradient += next[c].gradient;
    }
  }
  for (size_t c = 0; c < total.size(); ++c) {
    const int64_t channel = channel_begin + static_cast<int64_t>(c);
    // Nothing was summed: 0, also where inv_std is not finite.
    scale_grad[channel] = layout.empty() ? 0.0 : total[c].product * inv_std[channel];
    bias_grad[channel] = total[c].gradient;
  }
}

}  // namespace onnx_cbp
