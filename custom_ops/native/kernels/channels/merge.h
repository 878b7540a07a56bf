// Putting together what was summed over the parts of a channel.
#pragma once

#include <cstdint>

#include "../dividing/partition.h"

namespace onnx_cbp {

// Mean and sum of squared deviations of one part of a channel.
struct Moments {
  double mean;
  double m2;
};

// Sums over one part of a channel: of dy * (x - mean), which inv_std is yet to multiply, and of dy.
struct Sums {
  double product;
  double gradient;
};

// Both merge the parts of some channels, in their order: partial is [parts, channels], vectors start at the first
// channel of the tensor.
void MergeMoments(const Partition& partition, const Layout& layout, const Moments* partial, int64_t channel_begin,
                  int64_t channel_end, double* mean, double* var);

// Multiplies by inv_std too.
void MergeSums(const Partition& partition, const Layout& layout, const Sums* partial, const double* inv_std,
               int64_t channel_begin, int64_t channel_end, double* scale_grad, double* bias_grad);

}  // namespace onnx_cbp
