// Mean and variance, block by block.
#pragma once

#include <vector>

#include "../element_types.h"
#include "../partition.h"

namespace onnx_cbp {

// Mean and sum of squared deviations of one part of a channel.
struct Moments {
  double mean = 0.0;
  double m2 = 0.0;
};

// Moments of every channel of a block, summed around a pivot. Instantiated for every data type.
template <typename T>
void BlockMoments(const Layout& layout, const Block& block, const T* x, Moments* moments);

// Merges the parts of some channels, in their order: partial is [parts, channels]. mean and var start at the first
// channel of the tensor.
void MergeMoments(const Partition& partition, const Layout& layout, const Moments* partial, int64_t channel_begin,
                  int64_t channel_end, double* mean, double* var);

}  // namespace onnx_cbp
