#include <limits>
#include <new>
#include <vector>

#include "../kernels/element_types.h"
#include "c_api.h"
#include "kernels/channels.h"
#include "passes/passes.h"
#include "queue.h"

namespace onnx_cbp::cuda {
namespace {

constexpr const char* kUnknownType =
    "unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), statistics float or double";

const char* WrongShape(int64_t outer, int64_t channels, int64_t inner) {
  if (outer < 0 || channels < 0 || inner < 0) return "a size is negative";
  int64_t elements = 0;
  if (__builtin_mul_overflow(outer, channels, &elements) || __builtin_mul_overflow(elements, inner, &elements)) {
    return "the tensor has more elements than an int64 can count";
  }
  return nullptr;
}

// *count = elements, where no channel is there to do it.
struct SetCount {
  int64_t* count;
  int64_t elements;
  ONNX_CBP_DEVICE void operator()(int64_t) const { *count = elements; }
};

void QueueCount(Queue* queue, const Layout& layout, int64_t* count) {
  if (layout.channels == 0) QueueForEachChannel(queue, 1, SetCount{count, layout.outer * layout.inner});
}

struct MergeStats {
  Statistics mean, var;
  int64_t replicas, channels;
  const int64_t* count;
  StatisticsOutput merged_mean, merged_var;
  int64_t* merged_count;

  ONNX_CBP_DEVICE int64_t Total() const {
    int64_t total = 0;
    for (int64_t r = 0; r < replicas; ++r) {
      // More is not to be had; but no negative count.
      total = total > INT64_MAX - count[r] ? INT64_MAX : total + count[r];
    }
    return total;
  }

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    const int64_t total = Total();
    if (channel == 0) *merged_count = total;
    if (channel >= channels) return;  // there are no channels, only a count
    double all_mean = 0.0, all_var = 0.0;
    for (int64_t r = 0; r < replicas; ++r) {
      if (count[r] == 0) continue;  // nothing of it is read
      const double weight = static_cast<double>(count[r]) / static_cast<double>(total);
      all_mean += weight * mean[r * channels + channel];
    }
    for (int64_t r = 0; r < replicas; ++r) {
      if (count[r] == 0) continue;
      const double weight = static_cast<double>(count[r]) / static_cast<double>(total);
      const double distance = mean[r * channels + channel] - all_mean;
      all_var += weight * (var[r * channels + channel] + distance * distance);
    }
    merged_mean.Set(channel, all_mean);
    merged_var.Set(channel, all_var);
  }
};

struct UpdateRunning {
  Statistics running, batch;
  const int64_t* count;
  RunningRule rule;
  StatisticsOutput updated;

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    updated.Set(channel, rule.Updated(running[channel], batch[channel], static_cast<double>(*count)));
  }
};

// Work<T, V>::Enqueue(queue, operands, arguments) queues what an op does with tensors of type T and elementwise
// arithmetic in V: one for each op, told apart by its arguments. The operands have their shape, and their tensors are
// still to be set.
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
    Passes<T, V>::Sums(queue, *operands, Sums(*operands, a, {}));
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelBackpropArguments& a) {
    operands->x = a.x.data();
    operands->dy = a.dy.data();
    operands->out = a.dx.data();
    Passes<T, V>::Backprop(queue, *operands, a);
  }

  static void Enqueue(Queue* queue, Operands* operands, const ChannelStatsMergeArguments& a) {
    // A layout of one channel has its replicas as inner elements.
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
    FinishStatsGrad<V> finish{operands->Of(a.mean),
                              operands->Of(a.inv_std),
                              operands->Of(a.d_scale_grad),
                              operands->Of(a.d_bias_grad),
                              operands->To(a.d_mean),
                              operands->To(a.d_inv_std),
                              nullptr,
                              nullptr};
    Passes<T, V>::StatsGrad(queue, *operands, finish);
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
  // What the forward ops share. slope and offset are of y, for a gradient that recomputes the ReLU's mask; null where
  // nobody keeps them.
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
  static FinishSums<V> Sums(const Operands& operands, const Arguments& a, const Input<formal_scale>& scale) {
    return {operands.Of(scale), operands.Of(a.mean), operands.Of(a.inv_std), operands.To(a.scale_grad),
            operands.To(a.bias_grad)};
  }

  // What the backward ops share; which ReLU stood behind the normalisation is told by its y, or by slope and offset.
  template <typename Arguments>
  static void Backward(Queue* queue, Operands* operands, const Arguments& a, const Input<formal_y>& y,
                       const Input<formal_slope>& slope, const Input<formal_offset>& offset) {
    operands->dy = a.dy.data();
    operands->x = a.x.data();
    operands->y_of_relu = y.data();
    operands->out = a.dx.data();
    Passes<T, V>::Grad(queue, *operands, Sums(*operands, a, a.scale), operands->Of(slope), operands->Of(offset));
  }
};

// The functions below queue an op's work where types and sizes are what they can be. They are named for the sizes that
// they are given.
template <typename Arguments>
const char* RunTensor(const char* function, const onnx_cbp_cuda_queue& where, const Arguments& arguments, int x_type,
                      int stats_type, int64_t outer, int64_t channels, int64_t inner) {
  Queue queue(function, where);
  if (const char* reason = WrongShape(outer, channels, inner)) {
    queue.Fail(reason);
    return queue.result();
  }
  Operands operands{Layout{outer, channels, inner}, stats_type};
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    // What 16 bits hold of y and dx is the same from float and from double; sums follow the type of the statistics.
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
  if (CurrentDevice(&device) != nullptr || WrongShape(outer, channels, inner) != nullptr) return -1;
  return WorkspaceBytes(onnx_cbp::Layout{outer, channels, inner});
}

#define ONNX_CBP_CUDA_DEFINE(Name, name, sizes)                                                   \
  const char* onnx_cbp_cuda_##name(onnx_cbp_cuda_queue queue, ONNX_CBP_PARAMETERS(name, sizes)) { \
    return Run##sizes(__func__, queue, ONNX_CBP_TAKEN(Name, name), ONNX_CBP_VALUES_##sizes);      \
  }
ONNX_CBP_OPS_ON_CHANNELS(ONNX_CBP_CUDA_DEFINE)

#if defined(__CUDACC__)

struct onnx_cbp_cuda_staging {
  void* memory = nullptr;
  size_t capacity = 0;
  cudaEvent_t copied = nullptr;  // behind the last copies to a device
};

namespace {

void QueueCopies(Queue* queue, cudaStream_t stream, const onnx_cbp_cuda_copy* copies, size_t count,
                 cudaMemcpyKind kind) {
  for (size_t i = 0; i < count && queue->result() == nullptr; ++i) {
    const onnx_cbp_cuda_copy& copy = copies[i];
    if (copy.bytes > 0) queue->Check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, kind, stream));
  }
}

}  // namespace

const char* onnx_cbp_cuda_staging_new(onnx_cbp_cuda_staging** staging) {
  Queue queue(__func__, {nullptr, nullptr});
  cudaEvent_t copied = nullptr;
  if (queue.result() == nullptr) queue.Check(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  if (queue.result() != nullptr) return queue.result();
  *staging = new (std::nothrow) onnx_cbp_cuda_staging{nullptr, 0, copied};
  if (*staging == nullptr) {
    cudaEventDestroy(copied);
    queue.Fail("out of memory");
  }
  return queue.result();
}

void onnx_cbp_cuda_staging_delete(onnx_cbp_cuda_staging* staging) {
  if (staging == nullptr) return;
  // At exit the driver may be gone before; then it has freed all.
  cudaEventSynchronize(staging->copied);
  cudaFreeHost(staging->memory);
  cudaEventDestroy(staging->copied);
  cudaGetLastError();
  delete staging;
}

const char* onnx_cbp_cuda_staging_reserve(onnx_cbp_cuda_staging* staging, size_t bytes, void** memory) {
  Queue queue(__func__, {nullptr, nullptr});
  if (queue.result() == nullptr) queue.Check(cudaEventSynchronize(staging->copied));
  if (queue.result() == nullptr && bytes > staging->capacity) {
    queue.Check(cudaFreeHost(staging->memory));
    staging->memory = nullptr;
    staging->capacity = 0;
    if (queue.result() == nullptr) queue.Check(cudaHostAlloc(&staging->memory, bytes, cudaHostAllocPortable));
    if (queue.result() == nullptr) staging->capacity = bytes;
  }
  *memory = staging->memory;
  return queue.result();
}

const char* onnx_cbp_cuda_to_host(void* stream, const onnx_cbp_cuda_copy* copies, size_t count) {
  Queue queue(__func__, {stream, nullptr});
  QueueCopies(&queue, static_cast<cudaStream_t>(stream), copies, count, cudaMemcpyDeviceToHost);
  if (queue.result() == nullptr) queue.Check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  return queue.result();
}

const char* onnx_cbp_cuda_to_device(void* stream, onnx_cbp_cuda_staging* staging, const onnx_cbp_cuda_copy* copies,
                                    size_t count) {
  Queue queue(__func__, {stream, nullptr});
  QueueCopies(&queue, static_cast<cudaStream_t>(stream), copies, count, cudaMemcpyHostToDevice);
  // Also after a failure: some may be under way.
  const cudaError_t error = cudaEventRecord(staging->copied, static_cast<cudaStream_t>(stream));
  if (queue.result() == nullptr) queue.Check(error);
  return queue.result();
}

#else

struct onnx_cbp_cuda_staging {
  std::vector<double> memory;
};

namespace {

void CopyAll(const onnx_cbp_cuda_copy* copies, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (copies[i].bytes > 0) std::memcpy(copies[i].to, copies[i].from, copies[i].bytes);
  }
}

}  // namespace

const char* onnx_cbp_cuda_staging_new(onnx_cbp_cuda_staging** staging) {
  *staging = new onnx_cbp_cuda_staging;
  return nullptr;
}

void onnx_cbp_cuda_staging_delete(onnx_cbp_cuda_staging* staging) { delete staging; }

const char* onnx_cbp_cuda_staging_reserve(onnx_cbp_cuda_staging* staging, size_t bytes, void** memory) {
  // What a copy does not write is not a number.
  staging->memory.assign(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN());
  *memory = staging->memory.data();
  return nullptr;
}

const char* onnx_cbp_cuda_to_host(void*, const onnx_cbp_cuda_copy* copies, size_t count) {
  CopyAll(copies, count);
  return nullptr;
}

const char* onnx_cbp_cuda_to_device(void*, onnx_cbp_cuda_staging*, const onnx_cbp_cuda_copy* copies, size_t count) {
  CopyAll(copies, count);
  return nullptr;
}

#endif
