// What an op does with its tensors, made of kernels. For each data type these functions are compiled in a file of its
// own (passes_*.cu), so that several compilers can work at once.
#pragma once

#include "../../kernels/element_types.h"
#include "../../ops/arguments.h"
#include "../elements/finish.h"
#include "../kernels/plan.h"
#include "../queue.h"

namespace onnx_cbp::cuda {

// What passes go over: a shape, and tensors of it. Those that an op does not have are null.
struct Operands {
  Layout layout;
  int stats_type;
  const void* x = nullptr;
  const void* dy = nullptr;
  const void* y_of_relu = nullptr;  // the ReLU's result, which tells which gradients pass
  void* out = nullptr;              // y or dx
  void* out_dy = nullptr;           // d_dy
  bool relu = false;                // whether y goes through a ReLU

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
  // Statistics alone.
  static void Stats(Queue* queue, const Operands& operands, const StatsOutputs& outputs);
  // Statistics, and the tensor normalised by them.
  static void Train(Queue* queue, const Operands& operands, const FinishTrain<V>& finish);
  // Normalises by given statistics.
  static void Normalize(Queue* queue, const Operands& operands, const ChannelNormalizeArguments& arguments);
  // The sums of a gradient alone.
  static void BackpropStats(Queue* queue, const Operands& operands, const FinishSums<V>& finish);
  // The sums, and dx. Where slope and offset are given, a ReLU's mask is recomputed from them.
  static void Grad(Queue* queue, const Operands& operands, const FinishSums<V>& finish, const Statistics& slope,
                   const Statistics& offset);
  // dx from given sums.
  static void Backprop(Queue* queue, const Operands& operands, const ChannelBackpropArguments& arguments);
  // The gradient of BackpropStats.
  static void BackpropStatsGrad(Queue* queue, const Operands& operands, FinishStatsGrad<V> finish);
};

// Bytes of workspace that are enough for every function.
int64_t WorkspaceBytes(const Layout& layout);

}  // namespace onnx_cbp::cuda
