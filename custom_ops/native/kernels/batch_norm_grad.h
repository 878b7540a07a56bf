#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// Which ReLU stood behind the normalisation: its result y, or the slope and offset from which BatchNormTrain made it,
// or none where all are null.
struct ReluSource {
  const void* y = nullptr;
  const void* slope = nullptr;
  const void* offset = nullptr;
};

// ChannelBackpropStats and ChannelBackprop in one pass over groups of channels, with the count of x itself; dx is made
// from the sums in double, before they are rounded to the statistics type. dy counts where the ReLU lets it pass. False
// where a type is unknown.
bool BatchNormGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                   const ReluSource& source, const void* x, const void* scale, const void* mean, const void* inv_std,
                   void* dx, void* scale_grad, void* bias_grad);

}  // namespace onnx_cbp
