// The forward pass, which BatchNormTrain and the ops with an update share.
#pragma once

#include "../op.h"

namespace onnx_cbp {

struct ForwardInputs {
  double epsilon;
  bool relu;  // negative results become zero
  Input<formal_x> x;
  Input<formal_scale> scale;
  Input<formal_b> b;
};

// Outputs that are null are not written.
struct ForwardOutputs {
  Result<formal_y> y;
  Result<formal_mean> mean;
  Result<formal_var> var;
  Result<formal_inv_std> inv_std;
  // y = (x - mean) * slope + offset, computed with exactly these outputs, for a gradient that computes y again. Both or
  // neither are wanted.
  Result<formal_slope> slope;
  Result<formal_offset> offset;
};

// The statistics of a batch, and the batch normalised by them, in one pass over groups of channels. y is computed from
// mean and variance in double, before these are rounded to the statistics type. False if a type is unknown.
bool Forward(const TensorCall& call, const ForwardInputs& inputs, const ForwardOutputs& outputs);

}  // namespace onnx_cbp
