// How the functions are made of kernels. Those of a data type are compiled in a file of its own (passes_*.cu), so that
// several compilers can work at once.
#pragma once

#include "../kernels/element_types.h"
#include "finish.h"
#include "plan.h"
#include "queue.h"

namespace onnx_cbp::cuda {

// A tensor's shape, and the tensors and vectors of one call; those that a function does not have are null. They are
// named as in c_api.h.
struct Call {
  Layout layout;
  int stats_type;
  const void* x = nullptr;
  const void* dy = nullptr;
  const void* y_of_relu = nullptr;  // what the ReLU made, which tells what passes
  void* out = nullptr;              // y or dx
  void* out_dy = nullptr;           // d_dy
  bool relu = false;

  Statistics Of(const void* vector) const { return {vector, stats_type}; }
  StatisticsOutput To(void* vector) const { return {vector, stats_type}; }
};

// The passes over tensors of element type T with elementwise arithmetic in V.
template <typename T, typename V>
struct Passes {
  // Statistics alone.
  static void Stats(Queue* queue, const Call& call, const StatsOutputs& outputs);
  // Statistics, and the tensor normalised by them.
  static void Train(Queue* queue, const Call& call, const FinishTrain<V>& finish);
  // Normalises by given statistics.
  static void Normalize(Queue* queue, const Call& call, double epsilon, const Statistics& scale, const Statistics& b,
                        const Statistics& mean, const Statistics& var);
  // The sums of a gradient alone.
  static void Sums(Queue* queue, const Call& call, const FinishSums<V>& finish);
  // The sums, and dx.
  static void Grad(Queue* queue, const Call& call, const FinishSums<V>& finish, const Statistics& slope,
                   const Statistics& offset);
  // dx from given sums.
  static void Backprop(Queue* queue, const Call& call, const Statistics& scale, const Statistics& mean,
                       const Statistics& inv_std, const Statistics& scale_grad, const Statistics& bias_grad,
                       const int64_t* count);
  // The gradient of Sums.
  static void StatsGrad(Queue* queue, const Call& call, FinishStatsGrad<V> finish);
};

// Bytes of workspace that every function is content with.
int64_t WorkspaceBytes(const Layout& layout);

}  // namespace onnx_cbp::cuda
