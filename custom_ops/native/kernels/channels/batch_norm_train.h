// What BatchNormTrain and the ops with an update share.
#pragma once

#include "../op.h"

namespace onnx_cbp {

struct ForwardInputs {
  double epsilon;
  bool relu;  // cuts off what is negative in y
  Input<formal_x> x;
  Input<formal_scale> scale;
  Input<formal_b> b;
};

// Those that are null are not written.
struct ForwardOutputs {
  Result<formal_y> y;
  Result<formal_mean> mean;
  Result<formal_var> var;
  Result<formal_inv_std> inv_std;
  // y = (x - mean) * slope + offset, made from what these three say, for a gradient that computes it once more. Both or
  // none.
  Result<formal_slope> slope;
  Result<formal_offset> offset;
};

// Statistics of a batch and the batch normalised by them, in one pass over groups of channels. y is made from mean and
// variance in double, before they are rounded to the statistics type. False where a type is unknown.
bool Forward(const TensorCall& call, const ForwardInputs& inputs, const ForwardOutputs& outputs);

}  // namespace onnx_cbp
