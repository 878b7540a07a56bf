// The CUDA kernels as plain C functions.
#include "../arguments.h"
#include "../kernels/element_types.h"
#include "c_api.h"
#include "kernels/channels.h"
#include "kernels/statistics_ops.h"
#include "passes/passes.h"
#include "queue.h"

namespace onnx_cbp::cuda {
namespace {

void QueueCount(Queue* queue, const Layout& layout, int64_t* count) {
  if (layout.channels == 0) QueueForEachChannel(queue, 1, SetCount{count, layout.outer * layout.inner});
}

// Work<T, V>::Enqueue(queue, operands, arguments) queues an op's kernels, for tensors of type T and elementwise
// arithmetic in V. It is overloaded for each op by the type of the arguments. The operands already have their shape;
// each overload sets the tensors that its op has.
template <typename T, typename V>
struct Work {
  static void Enqueue(Queue* queue, Operands* operands, const ChannelStatsArguments& a) {
    operands->x = a.x.data();
    StatsOutputs outputs;
    outputs.mean = operands->To(a.mean);
    outputs.var = operands->To(a.var);
    outputs.count = a.count.template As<int64_t>();
    QueueCount(queue, operands->layout, outputs.count);
    Passes<T, V>::Stats(queue, *operands, outputs);
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelNormalizeArguments& a) {
    operands->x = a.x.data();
    operands->out = a.y.data();
    Passes<T, V>::Normalize(queue, *operands, a);
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelBackpropStatsArguments& a) {
    operands->x = a.x.data();
    operands->dy = a.dy.data();
    Passes<T, V>::BackpropStats(queue, *operands, FinishSumsOf(*operands, a, {}));
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelBackpropArguments& a) {
    operands->x = a.x.data();
    operands->dy = a.dy.data();
    operands->out = a.dx.data();
    Passes<T, V>::Backprop(queue, *operands, a);
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelStatsMergeArguments& a) {
    // If there is one channel, the layout counts its replicas as inner elements.
    const Layout& layout = operands->layout;
    const int64_t replicas = layout.outer * layout.inner, channels = layout.channels;
    QueueForEachChannel(
        queue, channels == 0 ? 1 : channels,
        MergeStats{operands->Of(a.mean), operands->Of(a.var), replicas, channels, a.count.template As<int64_t>(),
                   operands->To(a.merged_mean), operands->To(a.merged_var), a.merged_count.template As<int64_t>()});
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelBackpropStatsGradArguments& a) {
    operands->x = a.x.data();
    operands->dy = a.dy.data();
    operands->out = a.dx.data();
    operands->out_dy = a.d_dy.data();
    FinishStatsGrad<V> finish;
    finish.mean = operands->Of(a.mean);
    finish.inv_std = operands->Of(a.inv_std);
    finish.d_scale_grad = operands->Of(a.d_scale_grad);
    finish.d_bias_grad = operands->Of(a.d_bias_grad);
    finish.d_mean = operands->To(a.d_mean);
    finish.d_inv_std = operands->To(a.d_inv_std);
    Passes<T, V>::BackpropStatsGrad(queue, *operands, finish);
  }

  static void Enqueue(Queue* queue, Operands* operands, const RunningStatsArguments& a) {
    QueueForEachChannel(queue, operands->layout.channels,
                        UpdateRunning{operands->Of(a.running),
                                      operands->Of(a.batch),
                                      a.count.template As<int64_t>(),
                                      {a.momentum, a.unbiased != 0},
                                      operands->To(a.updated)});
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormTrainArguments& a) {
    StatsOutputs outputs;
    outputs.mean = operands->To(a.mean);
    outputs.var = operands->To(a.var);
    outputs.count = a.count.template As<int64_t>();
    QueueCount(queue, operands->layout, outputs.count);
    Forward(queue, operands, a, outputs, {}, {});
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormTrainUpdateArguments& a) {
    operands->relu = a.relu != 0;
    Forward(queue, operands, a, Updates(*operands, a), {}, {});
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormReluTrainUpdateArguments& a) {
    operands->relu = true;
    Forward(queue, operands, a, Updates(*operands, a), a.slope, a.offset);
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormGradArguments& a) {
    Backward(queue, operands, a, {}, {}, {});
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormReluGradArguments& a) {
    Backward(queue, operands, a, a.y, {}, {});
  }

  static void Enqueue(Queue* queue, Operands* operands, const BatchNormRecomputeReluGradArguments& a) {
    Backward(queue, operands, a, {}, a.slope, a.offset);
  }

 private:
  // Shared by the forward ops. slope and offset are kept for a gradient that recomputes the ReLU's mask; if they are
  // null, nothing keeps them.
  template <typename Arguments>
  static void Forward(Queue* queue, Operands* operands, const Arguments& a, StatsOutputs outputs,
                      const Result<formal_slope>& slope, const Result<formal_offset>& offset) {
    operands->x = a.x.data();
    operands->out = a.y.data();
    outputs.epsilon = a.epsilon;
    Passes<T, V>::Train(
        queue, *operands,
        FinishTrain<V>{outputs, operands->Of(a.scale), operands->Of(a.b), operands->To(slope), operands->To(offset)});
  }

  // The outputs of the ops with running statistics.
  template <typename Arguments>
  static StatsOutputs Updates(const Operands& operands, const Arguments& a) {
    StatsOutputs outputs;
    outputs.mean = operands.To(a.mean);
    outputs.inv_std = operands.To(a.inv_std);
    outputs.running_mean = operands.Of(a.running_mean);
    outputs.running_var = operands.Of(a.running_var);
    outputs.mean_rule = {a.momentum, false};
    outputs.var_rule = {a.momentum, a.unbiased != 0};
    outputs.updated_mean = operands.To(a.updated_mean);
    outputs.updated_var = operands.To(a.updated_var);
    return outputs;
  }

  template <typename Arguments>
  static FinishSums<V> FinishSumsOf(const Operands& operands, const Arguments& a, const Input<formal_scale>& scale) {
    return {operands.Of(scale), operands.Of(a.mean), operands.Of(a.inv_std), operands.To(a.scale_grad),
            operands.To(a.bias_grad)};
  }

  // Shared by the backward ops. Either y, or slope and offset, say which ReLU came after the normalisation.
  template <typename Arguments>
  static void Backward(Queue* queue, Operands* operands, const Arguments& a, const Input<formal_y>& y,
                       const Input<formal_slope>& slope, const Input<formal_offset>& offset) {
    operands->dy = a.dy.data();
    operands->x = a.x.data();
    operands->y_of_relu = y.data();
    operands->out = a.dx.data();
    Passes<T, V>::Grad(queue, *operands, FinishSumsOf(*operands, a, a.scale), operands->Of(slope),
                       operands->Of(offset));
  }
};

// The functions below queue an op's work, and refuse impossible types and sizes. Each is named after the sizes that it
// gets (ops/table.h).
template <typename Arguments>
const char* RunTensor(const char* function, const onnx_cbp_cuda_queue& where, const Arguments& arguments, int x_type,
                      int stats_type, int64_t outer, int64_t channels, int64_t inner) {
  Queue queue(function, where);
  int64_t elements = 0;
  if (const char* reason = ElementsOf(outer, channels, inner, &elements)) {
    queue.Fail(reason);
    return queue.result();
  }
  Operands operands{Layout{outer, channels, inner}, stats_type};
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    // For y and dx of 16 bits, float is as good as double. Sums in double follow the type of the statistics.
    using V = std::conditional_t<sizeof(T) < sizeof(float), float, ComputeType<T, decltype(u)>>;
    Work<T, V>::Enqueue(&queue, &operands, arguments);
  });
  if (!known) queue.Fail(kUnknownType);
  return queue.result();
}

template <typename Arguments>
const char* RunReplicas(const char* function, const onnx_cbp_cuda_queue& where, const Arguments& arguments,
                        int stats_type, int64_t replicas, int64_t channels) {
  return RunTensor(function, where, arguments, kFloat, stats_type, replicas, channels, 1);
}

template <typename Arguments>
const char* RunVectors(const char* function, const onnx_cbp_cuda_queue& where, const Arguments& arguments,
                       int stats_type, int64_t channels) {
  return RunReplicas(function, where, arguments, stats_type, 1, channels);
}

}  // namespace
}  // namespace onnx_cbp::cuda

using namespace onnx_cbp::cuda;  // NOLINT: only definitions of C functions follow

int onnx_cbp_cuda_interface(void) { return ONNX_CBP_CUDA_INTERFACE; }

const char* onnx_cbp_cuda_check(int device) { return WhyUnusable(device); }

int64_t onnx_cbp_cuda_workspace(int64_t outer, int64_t channels, int64_t inner) {
  Device device{};
  int64_t elements = 0;
  if (CurrentDevice(&device) != nullptr || onnx_cbp::ElementsOf(outer, channels, inner, &elements) != nullptr)
    return -1;
  return WorkspaceBytes(onnx_cbp::Layout{outer, channels, inner});
}

#define ONNX_CBP_CUDA_DEFINE(Name, name, sizes)                                                   \
  const char* onnx_cbp_cuda_##name(onnx_cbp_cuda_queue queue, ONNX_CBP_PARAMETERS(name, sizes)) { \
    return Run##sizes(__func__, queue, ONNX_CBP_TAKEN(Name, name), ONNX_CBP_VALUES_##sizes);      \
  }
ONNX_CBP_OPS_ON_CHANNELS(ONNX_CBP_CUDA_DEFINE)
