// The whole forward pass of a batch norm in a training step, with the update of its running statistics.
#include <vector>

#include "batch_norm_train.h"
#include "running_stats.h"

namespace onnx_cbp {
namespace {

// BatchNormTrain, without its variance among the outputs, and two RunningStats; unbiased is for the variance.
template <typename Arguments>
bool ForwardAndUpdate(const TensorCall& call, const Arguments& a, bool relu, ForwardOutputs outputs) {
  // Rounded to the statistics type, as if it were passed from one op to the other.
  std::vector<double> storage(static_cast<size_t>(call.layout.channels));
  outputs.var = Result<formal_var>(storage.data());
  const int64_t count = call.layout.outer * call.layout.inner;
  const auto move = [&](bool unbiased, const auto& running, const auto& batch, const auto& updated) {
    return MoveRunning(call.stats_type, call.layout.channels, {a.momentum, unbiased}, count, running.data(),
                       batch.data(), updated.data());
  };
  return Forward(call, {a.epsilon, relu, a.x, a.scale, a.b}, outputs) &&
         move(false, a.running_mean, outputs.mean, a.updated_mean) &&
         move(a.unbiased != 0, a.running_var, outputs.var, a.updated_var);
}

}  // namespace

bool BatchNormTrainUpdate(const TensorCall& call, const BatchNormTrainUpdateArguments& a) {
  return ForwardAndUpdate(call, a, a.relu != 0, {a.y, a.mean, {}, a.inv_std, {}, {}});
}

bool BatchNormReluTrainUpdate(const TensorCall& call, const BatchNormReluTrainUpdateArguments& a) {
  return ForwardAndUpdate(call, a, true, {a.y, a.mean, {}, a.inv_std, a.slope, a.offset});
}

}  // namespace onnx_cbp
