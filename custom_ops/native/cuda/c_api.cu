#include <limits>
#include <new>
#include <vector>

#include "../kernels/element_types.h"
#include "c_api.h"
#include "channels.h"
#include "passes.h"
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

// Runs run(Queue*, Call, T{}, V{}) for a tensor of these types and this shape; the call's tensors are still to be set.
template <typename F>
const char* WithTensors(const char* function, const onnx_cbp_cuda_queue& where, int x_type, int stats_type,
                        int64_t outer, int64_t channels, int64_t inner, F&& run) {
  Queue queue(function, where);
  if (const char* reason = WrongShape(outer, channels, inner)) {
    queue.Fail(reason);
    return queue.result();
  }
  Call call{Layout{outer, channels, inner}, stats_type};
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    // What 16 bits hold of y and dx is the same from float and from double; sums follow the type of the statistics.
    using V = std::conditional_t<sizeof(T) < sizeof(float), float, ComputeType<T, decltype(u)>>;
    run(&queue, call, t, V{});
  });
  if (!known) queue.Fail(kUnknownType);
  return queue.result();
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

template <typename V>
FinishTrain<V> Train(const Call& call, const StatsOutputs& outputs, const void* scale, const void* b, void* slope,
                     void* offset) {
  return {outputs, call.Of(scale), call.Of(b), call.To(slope), call.To(offset)};
}

// slope and offset: of y, for a gradient that recomputes the ReLU's mask; null where nobody keeps them.
const char* TrainUpdate(const char* function, const onnx_cbp_cuda_queue& queue, int x_type, int stats_type,
                        int64_t outer, int64_t channels, int64_t inner, double epsilon, double momentum, int unbiased,
                        bool relu, const void* x, const void* scale, const void* b, const void* running_mean,
                        const void* running_var, void* y, void* mean, void* inv_std, void* updated_mean,
                        void* updated_var, void* slope, void* offset) {
  return WithTensors(function, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       using V = decltype(v);
                       call.x = x;
                       call.out = y;
                       call.relu = relu;
                       StatsOutputs outputs;
                       outputs.epsilon = epsilon;
                       outputs.mean = call.To(mean);
                       outputs.inv_std = call.To(inv_std);
                       outputs.running_mean = call.Of(running_mean);
                       outputs.running_var = call.Of(running_var);
                       outputs.mean_rule = {momentum, false};
                       outputs.var_rule = {momentum, unbiased != 0};
                       outputs.updated_mean = call.To(updated_mean);
                       outputs.updated_var = call.To(updated_var);
                       Passes<decltype(t), V>::Train(q, call, Train<V>(call, outputs, scale, b, slope, offset));
                     });
}

template <typename V>
FinishSums<V> SumsFor(const Call& call, const void* scale, const void* mean, const void* inv_std, void* scale_grad,
                      void* bias_grad) {
  return {call.Of(scale), call.Of(mean), call.Of(inv_std), call.To(scale_grad), call.To(bias_grad)};
}

const char* BatchNormGrad(const char* function, const onnx_cbp_cuda_queue& queue, int x_type, int stats_type,
                          int64_t outer, int64_t channels, int64_t inner, const void* dy, const void* y, const void* x,
                          const void* scale, const void* mean, const void* inv_std, const void* slope,
                          const void* offset, void* dx, void* scale_grad, void* bias_grad) {
  return WithTensors(function, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       using T = decltype(t);
                       using V = decltype(v);
                       call.dy = dy;
                       call.x = x;
                       call.y_of_relu = y;
                       call.out = dx;
                       Passes<T, V>::Grad(q, call, SumsFor<V>(call, scale, mean, inv_std, scale_grad, bias_grad),
                                          call.Of(slope), call.Of(offset));
                     });
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

const char* onnx_cbp_cuda_channel_stats(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                        int64_t channels, int64_t inner, const void* x, void* mean, void* var,
                                        int64_t* count) {
  return WithTensors(__func__, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       call.x = x;
                       StatsOutputs outputs;
                       outputs.mean = call.To(mean);
                       outputs.var = call.To(var);
                       outputs.count = count;
                       QueueCount(q, call.layout, count);
                       Passes<decltype(t), decltype(v)>::Stats(q, call, outputs);
                     });
}

const char* onnx_cbp_cuda_channel_normalize(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                            int64_t channels, int64_t inner, double epsilon, const void* x,
                                            const void* scale, const void* b, const void* mean, const void* var,
                                            void* y) {
  return WithTensors(__func__, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       call.x = x;
                       call.out = y;
                       Passes<decltype(t), decltype(v)>::Normalize(q, call, epsilon, call.Of(scale), call.Of(b),
                                                                   call.Of(mean), call.Of(var));
                     });
}

const char* onnx_cbp_cuda_channel_backprop_stats(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                                 int64_t channels, int64_t inner, const void* x, const void* mean,
                                                 const void* inv_std, const void* dy, void* scale_grad,
                                                 void* bias_grad) {
  return WithTensors(
      __func__, queue, x_type, stats_type, outer, channels, inner, [&](Queue* q, Call& call, auto t, auto v) {
        using V = decltype(v);
        call.x = x;
        call.dy = dy;
        Passes<decltype(t), V>::Sums(q, call, SumsFor<V>(call, nullptr, mean, inv_std, scale_grad, bias_grad));
      });
}

const char* onnx_cbp_cuda_channel_backprop(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                           int64_t channels, int64_t inner, const void* dy, const void* x,
                                           const void* scale, const void* mean, const void* inv_std,
                                           const void* scale_grad, const void* bias_grad, const int64_t* count,
                                           void* dx) {
  return WithTensors(
      __func__, queue, x_type, stats_type, outer, channels, inner, [&](Queue* q, Call& call, auto t, auto v) {
        call.x = x;
        call.dy = dy;
        call.out = dx;
        Passes<decltype(t), decltype(v)>::Backprop(q, call, call.Of(scale), call.Of(mean), call.Of(inv_std),
                                                   call.Of(scale_grad), call.Of(bias_grad), count);
      });
}

const char* onnx_cbp_cuda_channel_stats_merge(onnx_cbp_cuda_queue queue, int stats_type, int64_t replicas,
                                              int64_t channels, const void* mean, const void* var, const int64_t* count,
                                              void* merged_mean, void* merged_var, int64_t* merged_count) {
  return WithTensors(__func__, queue, onnx_cbp::kFloat, stats_type, replicas, channels, 1,
                     [&](Queue* q, Call& call, auto, auto) {
                       QueueForEachChannel(q, channels == 0 ? 1 : channels,
                                           MergeStats{call.Of(mean), call.Of(var), replicas, channels, count,
                                                      call.To(merged_mean), call.To(merged_var), merged_count});
                     });
}

const char* onnx_cbp_cuda_channel_backprop_stats_grad(onnx_cbp_cuda_queue queue, int x_type, int stats_type,
                                                      int64_t outer, int64_t channels, int64_t inner, const void* x,
                                                      const void* mean, const void* inv_std, const void* dy,
                                                      const void* d_scale_grad, const void* d_bias_grad, void* dx,
                                                      void* d_mean, void* d_inv_std, void* d_dy) {
  return WithTensors(__func__, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       using V = decltype(v);
                       call.x = x;
                       call.dy = dy;
                       call.out = dx;
                       call.out_dy = d_dy;
                       FinishStatsGrad<V> finish{call.Of(mean),
                                                 call.Of(inv_std),
                                                 call.Of(d_scale_grad),
                                                 call.Of(d_bias_grad),
                                                 call.To(d_mean),
                                                 call.To(d_inv_std),
                                                 nullptr,
                                                 nullptr};
                       Passes<decltype(t), V>::StatsGrad(q, call, finish);
                     });
}

const char* onnx_cbp_cuda_batch_norm_train(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                           int64_t channels, int64_t inner, double epsilon, const void* x,
                                           const void* scale, const void* b, void* y, void* mean, void* var,
                                           int64_t* count) {
  return WithTensors(__func__, queue, x_type, stats_type, outer, channels, inner,
                     [&](Queue* q, Call& call, auto t, auto v) {
                       using V = decltype(v);
                       call.x = x;
                       call.out = y;
                       StatsOutputs outputs;
                       outputs.epsilon = epsilon;
                       outputs.mean = call.To(mean);
                       outputs.var = call.To(var);
                       outputs.count = count;
                       QueueCount(q, call.layout, count);
                       Passes<decltype(t), V>::Train(q, call, Train<V>(call, outputs, scale, b, nullptr, nullptr));
                     });
}

const char* onnx_cbp_cuda_batch_norm_train_update(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                                  int64_t channels, int64_t inner, double epsilon, double momentum,
                                                  int unbiased, int relu, const void* x, const void* scale,
                                                  const void* b, const void* running_mean, const void* running_var,
                                                  void* y, void* mean, void* inv_std, void* updated_mean,
                                                  void* updated_var) {
  return TrainUpdate(__func__, queue, x_type, stats_type, outer, channels, inner, epsilon, momentum, unbiased,
                     relu != 0, x, scale, b, running_mean, running_var, y, mean, inv_std, updated_mean, updated_var,
                     nullptr, nullptr);
}

const char* onnx_cbp_cuda_batch_norm_relu_train_update(onnx_cbp_cuda_queue queue, int x_type, int stats_type,
                                                       int64_t outer, int64_t channels, int64_t inner, double epsilon,
                                                       double momentum, int unbiased, const void* x, const void* scale,
                                                       const void* b, const void* running_mean, const void* running_var,
                                                       void* y, void* mean, void* inv_std, void* updated_mean,
                                                       void* updated_var, void* slope, void* offset) {
  return TrainUpdate(__func__, queue, x_type, stats_type, outer, channels, inner, epsilon, momentum, unbiased, true, x,
                     scale, b, running_mean, running_var, y, mean, inv_std, updated_mean, updated_var, slope, offset);
}

const char* onnx_cbp_cuda_batch_norm_grad(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                          int64_t channels, int64_t inner, const void* dy, const void* x,
                                          const void* scale, const void* mean, const void* inv_std, void* dx,
                                          void* scale_grad, void* bias_grad) {
  return BatchNormGrad(__func__, queue, x_type, stats_type, outer, channels, inner, dy, nullptr, x, scale, mean,
                       inv_std, nullptr, nullptr, dx, scale_grad, bias_grad);
}

const char* onnx_cbp_cuda_batch_norm_relu_grad(onnx_cbp_cuda_queue queue, int x_type, int stats_type, int64_t outer,
                                               int64_t channels, int64_t inner, const void* dy, const void* y,
                                               const void* x, const void* scale, const void* mean, const void* inv_std,
                                               void* dx, void* scale_grad, void* bias_grad) {
  return BatchNormGrad(__func__, queue, x_type, stats_type, outer, channels, inner, dy, y, x, scale, mean, inv_std,
                       nullptr, nullptr, dx, scale_grad, bias_grad);
}

const char* onnx_cbp_cuda_batch_norm_recompute_relu_grad(onnx_cbp_cuda_queue queue, int x_type, int stats_type,
                                                         int64_t outer, int64_t channels, int64_t inner, const void* dy,
                                                         const void* x, const void* scale, const void* mean,
                                                         const void* inv_std, const void* slope, const void* offset,
                                                         void* dx, void* scale_grad, void* bias_grad) {
  return BatchNormGrad(__func__, queue, x_type, stats_type, outer, channels, inner, dy, nullptr, x, scale, mean,
                       inv_std, slope, offset, dx, scale_grad, bias_grad);
}

const char* onnx_cbp_cuda_running_stats(onnx_cbp_cuda_queue queue, int stats_type, int64_t channels, double momentum,
                                        int unbiased, const void* running, const void* batch, const int64_t* count,
                                        void* updated) {
  return WithTensors(
      __func__, queue, onnx_cbp::kFloat, stats_type, 1, channels, 1, [&](Queue* q, Call& call, auto, auto) {
        QueueForEachChannel(
            q, channels,
            UpdateRunning{call.Of(running), call.Of(batch), count, {momentum, unbiased != 0}, call.To(updated)});
      });
}

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
