// Merges what was summed over the parts of a channel.
#pragma once

#include <cstdint>

#include "../dividing/partition.h"

namespace onnx_cbp {

// The mean, and the sum of squared deviations, of one part of a channel.
struct Moments {
  double mean;
  double m2;
};

// Sums over one part of a channel: of dy * (x - mean), which is not yet multiplied by inv_std, and of dy.
struct Sums {
  double product;
  double gradient;
};

// Both functions merge the parts of some channels, in order. partial is [parts, channels]; vectors start at the
// tensor's first channel.
void MergeMoments(const Partition& partition, const Layout& layout, const Moments* partial, int64_t channel_begin,
                  int64_t channel_end, double* mean, double* var);

// Also multiplies by inv_std.
void MergeSums(const Partition& partition, const Layout& layout, const Sums* partial, const double* inv_std,
               int64_t channel_begin, int64_t channel_end, double* scale_grad, double* bias_grad);

}  // namespace onnx_cbp
