// The sums of ChannelBackpropStats, block by block.
#pragma once

#include "../element_types.h"
#include "../partition.h"

namespace onnx_cbp {

// Sums over one part of a channel: of dy * (x - mean), which inv_std is yet to multiply, and of dy.
struct Sums {
  double product = 0.0;
  double gradient = 0.0;
};

// Sums of every channel of a block; mean starts at the first channel of the tensor. Where y is given, dy counts only
// where y is positive: the gradient of a ReLU whose result is y. Instantiated for every data type.
template <typename T>
void BlockSums(const Layout& layout, const Block& block, const T* x, const double* mean, const T* dy, const T* y,
               Sums* sums);

// Merges the parts of some channels, in their order, and multiplies by inv_std: partial is [parts, channels], vectors
// start at the first channel of the tensor.
void MergeSums(const Partition& partition, const Layout& layout, const Sums* partial, const double* inv_std,
               int64_t channel_begin, int64_t channel_end, double* scale_grad, double* bias_grad);

}  // namespace onnx_cbp
