#pragma once

#include "batch_norm_train.h"
#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// How running statistics move, as in RunningStats; unbiased is for the variance.
struct RunningUpdate {
  double momentum;
  bool unbiased;
  const void* mean;
  const void* var;
  void* updated_mean;
  void* updated_var;
};

// BatchNormTrain, whose variance is not among the outputs, and two RunningStats. False where a type is unknown.
bool BatchNormTrainUpdate(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                          bool relu, const void* x, const void* scale, const void* b, const RunningUpdate& running,
                          BatchNormTrainOutputs outputs);

}  // namespace onnx_cbp
