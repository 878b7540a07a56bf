#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// Statistics of a batch and the batch normalised by them, in one pass over groups of channels. y is made from mean and
// variance in double, before they are rounded to the statistics type. Outputs that are null are not written.
struct BatchNormTrainOutputs {
  void* y;
  void* mean;
  void* var;
  void* inv_std;
  // y = (x - mean) * slope + offset, made from what these three say, for a gradient that computes it once more. Both or
  // none.
  void* slope = nullptr;
  void* offset = nullptr;
};

// relu cuts off what is negative in y. False where a type is unknown.
bool BatchNormTrain(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                    bool relu, const void* x, const void* scale, const void* b, const BatchNormTrainOutputs& outputs);

}  // namespace onnx_cbp
