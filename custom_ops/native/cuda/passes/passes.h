// How each op passes over its tensors, by kernels. For each data type, these functions are compiled in a separate file
// (passes_*.cu), so that several compilers can work at once.
#pragma once

#include "../../kernels/element_types.h"
#include "../../ops/arguments.h"
#include "../elements/finish.h"
#include "../kernels/plan.h"
#include "../queue.h"

namespace onnx_cbp::cuda {

// What passes work on: a shape, and tensors of this shape. Tensors that an op does not have are null.
struct Operands {
  Layout layout;
  int stats_type;
  const void* x = nullptr;
  const void* dy = nullptr;
  const void* y_of_relu = nullptr;  // the ReLU's result, which says which gradients pass
  void* out = nullptr;              // y or dx
  void* out_dy = nullptr;           // d_dy
  bool relu = false;                // whether a ReLU is applied to y

  template <typename Name>
  Statistics Of(const Input<Name>& vector) const {
    return {vector.data(), stats_type};
  }
  template <typename Name>
  StatisticsOutput To(const Result<Name>& vector) const {
    return {vector.data(), stats_type};
  }
};

// The passes over tensors of element type T with elementwise arithmetic in V.
template <typename T, typename V>
struct Passes {
  // Only the statistics.
  static void Stats(Queue* queue, const Operands& operands, const StatsOutputs& outputs);
  // The statistics, and the tensor normalised by them.
  static void Train(Queue* queue, const Operands& operands, const FinishTrain<V>& finish);
  // The tensor, normalised by given statistics.
  static void Normalize(Queue* queue, const Operands& operands, const ChannelNormalizeArguments& arguments);
  // Only the sums of a gradient.
  static void BackpropStats(Queue* queue, const Operands& operands, const FinishSums<V>& finish);
  // The sums, and dx. If slope and offset are given, the ReLU's mask is recomputed from them.
  static void Grad(Queue* queue, const Operands& operands, const FinishSums<V>& finish, const Statistics& slope,
                   const Statistics& offset);
  // dx from given sums.
  static void Backprop(Queue* queue, const Operands& operands, const ChannelBackpropArguments& arguments);
  // The gradient of BackpropStats.
  static void BackpropStatsGrad(Queue* queue, const Operands& operands, FinishStatsGrad<V> finish);
};

// How many bytes of workspace are enough for every function.
int64_t WorkspaceBytes(const Layout& layout);

}  // namespace onnx_cbp::cuda
