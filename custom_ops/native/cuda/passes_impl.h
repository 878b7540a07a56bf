// The definitions of Passes, for the files that compile them.
#pragma once

#include <algorithm>

#include "backprop_op.h"
#include "channels.h"
#include "gather.h"
#include "map.h"
#include "normalize_op.h"
#include "one_pass.h"
#include "passes.h"

namespace onnx_cbp::cuda {

// Calls f(width) with the number of elements of a unit as a constant.
template <typename T, typename F>
void WithWidth(const Plan& plan, F&& f) {
  if (plan.width() == 1) {
    f(std::integral_constant<int, 1>{});
  } else {
    f(std::integral_constant<int, kVectorWidth<T>>{});
  }
}

template <typename T>
Plan PlanOf(const Call& call) {
  constexpr uintptr_t kBytes = sizeof(T) * kVectorWidth<T>;
  bool aligned = true;
  for (const void* tensor :
       {call.x, call.dy, call.y_of_relu, static_cast<const void*>(call.out), static_cast<const void*>(call.out_dy)}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(tensor) % kBytes == 0;
  }
  return MakePlan(call.layout, kVectorWidth<T>, aligned);
}

// The workspace: coefficients of every channel, then the partial sums.
template <typename Coefficients>
struct Workspace {
  static constexpr int64_t kAlignment = 16;
  Coefficients* coefficients;
  Pair* partials;

  Workspace(const Queue& queue, const Layout& layout) {
    const int64_t bytes = layout.channels * static_cast<int64_t>(sizeof(Coefficients));
    coefficients = reinterpret_cast<Coefficients*>(queue.workspace());
    partials = reinterpret_cast<Pair*>(queue.workspace() + (bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
};

template <typename Gather, typename Finish>
void QueueGather(Queue* queue, const Plan& plan, const Gather& gather, const Finish& finish, Pair* partials,
                 typename Finish::Coefficients* coefficients) {
  WithWidth<typename Gather::Element>(plan, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (plan.by_plane) {
      queue->Launch(GatherPlanes<Gather, kWidth>{gather, plan.planes, partials}, plan.tasks());
    } else {
      using Kernel = GatherTiles<Gather, kWidth>;
      queue->Launch(Kernel{gather, plan.tiles, partials}, plan.tasks(), Kernel::kShared);
    }
  });
  if (plan.by_plane) {
    queue->Launch(MergePartials<Finish, Planes>{finish, plan.planes, partials, coefficients}, plan.planes.channels);
  } else {
    queue->Launch(MergePartials<Finish, Tiles>{finish, plan.tiles, partials, coefficients}, plan.tiles.channels);
  }
}

template <typename Map>
void QueueMap(Queue* queue, const Plan& plan, const Map& map) {
  WithWidth<typename Map::Element>(plan, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (plan.by_plane) {
      queue->Launch(MapPlanes<Map, kWidth>{map, plan.planes}, plan.tasks());
    } else {
      queue->Launch(MapTiles<Map, kWidth>{map, plan.tiles}, plan.tasks());
    }
  });
}

// Both passes in one where a channel fits into shared memory, and where blocks of a channel each do not leave most of
// the device idle, unless there is so little to do that three launches would take longer. Two blocks have to fit a
// multiprocessor: one alone would leave memory idle while it sums.
template <typename Gather, typename Finish, typename Map>
bool QueuedOnePass(Queue* queue, const Plan& plan, const Gather& gather, const Finish& finish, const Map& map) {
  constexpr int64_t kLittle = 16 * 1024;
  if (!plan.by_plane) return false;
  const Planes& planes = plan.planes;
  bool queued = false;
  WithWidth<typename Gather::Element>(plan, [&](auto width) {
    using Kernel = OnePass<Gather, Finish, Map, decltype(width)::value>;
    const int64_t shared = Kernel::Shared(planes);
    const bool fills = planes.channels >= queue->device().multiprocessors / 2 || shared <= kLittle;
    if (shared > queue->device().shared || planes.parts > Kernel::kMostParts || !fills) return;
    queue->Launch(Kernel{gather, finish, map, planes}, planes.channels, static_cast<size_t>(shared));
    queued = true;
  });
  return queued;
}

template <typename Finish>
void QueueEmpty(Queue* queue, const Layout& layout, const Finish& finish) {
  QueueForEachChannel(queue, layout.channels, FinishEmpty<Finish>{finish});
}

template <typename T, typename V>
MomentsOf<T, V> Moments(const Call& call) {
  return {{static_cast<const T*>(call.x)}, call.stats_type == kFloat};
}

template <typename T, typename V>
NormalizeTo<T, V> Normalized(const Call& call, const NormalizeCoefficients<V>* coefficients) {
  return {{static_cast<const T*>(call.x)}, static_cast<T*>(call.out), coefficients, call.relu};
}

template <typename T, typename V>
ReadsGradient<T, V> Gradient(const Call& call, const Statistics& mean, const Statistics& slope,
                             const Statistics& offset) {
  return {static_cast<const T*>(call.dy),
          static_cast<const T*>(call.x),
          static_cast<const T*>(call.y_of_relu),
          mean,
          slope,
          offset};
}

template <typename T, typename V>
SumsOf<T, V> GradientSums(const Queue& queue, const Call& call, const ReadsGradient<T, V>& reads) {
  return {reads, call.stats_type == kFloat && (sizeof(T) < sizeof(float) || queue.device().slow_double)};
}

template <typename T, typename V>
void Passes<T, V>::Stats(Queue* queue, const Call& call, const StatsOutputs& outputs) {
  const FinishStats finish{outputs};
  if (call.layout.empty()) return QueueEmpty(queue, call.layout, finish);
  const Workspace<NormalizeCoefficients<V>> space(*queue, call.layout);
  QueueGather(queue, PlanOf<T>(call), Moments<T, V>(call), finish, space.partials,
              static_cast<NoCoefficients*>(nullptr));
}

template <typename T, typename V>
void Passes<T, V>::Train(Queue* queue, const Call& call, const FinishTrain<V>& finish) {
  if (call.layout.empty()) return QueueEmpty(queue, call.layout, finish);
  const Plan plan = PlanOf<T>(call);
  const Workspace<NormalizeCoefficients<V>> space(*queue, call.layout);
  const MomentsOf<T, V> gather = Moments<T, V>(call);
  const NormalizeTo<T, V> map = Normalized<T, V>(call, space.coefficients);
  if (QueuedOnePass(queue, plan, gather, finish, map)) return;
  QueueGather(queue, plan, gather, finish, space.partials, space.coefficients);
  QueueMap(queue, plan, map);
}

// Coefficients of a normalisation by given statistics.
template <typename V>
struct PrepareNormalize {
  double epsilon;
  Statistics scale, b, mean, var;
  NormalizeCoefficients<V>* coefficients;

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    const double inv_std = 1.0 / sqrt(var[channel] + epsilon);
    coefficients[channel] = MakeNormalizeCoefficients<V>(mean[channel], inv_std, scale[channel], b[channel]);
  }
};

template <typename T, typename V>
void Passes<T, V>::Normalize(Queue* queue, const Call& call, double epsilon, const Statistics& scale,
                             const Statistics& b, const Statistics& mean, const Statistics& var) {
  if (call.layout.empty()) return;
  const Workspace<NormalizeCoefficients<V>> space(*queue, call.layout);
  QueueForEachChannel(queue, call.layout.channels,
                      PrepareNormalize<V>{epsilon, scale, b, mean, var, space.coefficients});
  QueueMap(queue, PlanOf<T>(call), Normalized<T, V>(call, space.coefficients));
}

template <typename T, typename V>
void Passes<T, V>::Sums(Queue* queue, const Call& call, const FinishSums<V>& finish) {
  if (call.layout.empty()) return QueueEmpty(queue, call.layout, finish);
  const Workspace<BackpropCoefficients<V>> space(*queue, call.layout);
  QueueGather(queue, PlanOf<T>(call), GradientSums(*queue, call, Gradient<T, V>(call, finish.mean, {}, {})), finish,
              space.partials, static_cast<BackpropCoefficients<V>*>(nullptr));
}

template <typename T, typename V>
void Passes<T, V>::Grad(Queue* queue, const Call& call, const FinishSums<V>& finish, const Statistics& slope,
                        const Statistics& offset) {
  if (call.layout.empty()) return QueueEmpty(queue, call.layout, finish);
  const Plan plan = PlanOf<T>(call);
  const Workspace<BackpropCoefficients<V>> space(*queue, call.layout);
  const ReadsGradient<T, V> reads = Gradient<T, V>(call, finish.mean, slope, offset);
  const SumsOf<T, V> gather = GradientSums(*queue, call, reads);
  const BackpropTo<T, V> map{reads, static_cast<T*>(call.out), space.coefficients};
  if (QueuedOnePass(queue, plan, gather, finish, map)) return;
  QueueGather(queue, plan, gather, finish, space.partials, space.coefficients);
  QueueMap(queue, plan, map);
}

// Coefficients of a gradient from given sums.
template <typename V>
struct PrepareBackprop {
  Statistics scale, mean, inv_std, scale_grad, bias_grad;
  const int64_t* count;
  BackpropCoefficients<V>* coefficients;

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    const double elements = static_cast<double>(*count < 1 ? 1 : *count);
    coefficients[channel] = MakeBackpropCoefficients<V>(scale[channel], mean[channel], inv_std[channel],
                                                        scale_grad[channel], bias_grad[channel], elements);
  }
};

template <typename T, typename V>
void Passes<T, V>::Backprop(Queue* queue, const Call& call, const Statistics& scale, const Statistics& mean,
                            const Statistics& inv_std, const Statistics& scale_grad, const Statistics& bias_grad,
                            const int64_t* count) {
  if (call.layout.empty()) return;
  const Workspace<BackpropCoefficients<V>> space(*queue, call.layout);
  QueueForEachChannel(queue, call.layout.channels,
                      PrepareBackprop<V>{scale, mean, inv_std, scale_grad, bias_grad, count, space.coefficients});
  QueueMap(queue, PlanOf<T>(call),
           BackpropTo<T, V>{Gradient<T, V>(call, mean, {}, {}), static_cast<T*>(call.out), space.coefficients});
}

template <typename T, typename V>
void Passes<T, V>::StatsGrad(Queue* queue, const Call& call, FinishStatsGrad<V> finish) {
  struct Both {
    NormalizeCoefficients<V> of_dy, of_x;
  };
  const Workspace<Both> space(*queue, call.layout);
  // One after the other: each map reads an array of its own.
  finish.of_dy = reinterpret_cast<NormalizeCoefficients<V>*>(space.coefficients);
  finish.of_x = finish.of_dy + call.layout.channels;
  if (call.layout.empty()) return QueueEmpty(queue, call.layout, finish);
  const Plan plan = PlanOf<T>(call);
  QueueGather(queue, plan, GradientSums(*queue, call, Gradient<T, V>(call, finish.mean, {}, {})), finish,
              space.partials, static_cast<NoCoefficients*>(nullptr));
  QueueMap(queue, plan,
           NormalizeTo<T, V>{{static_cast<const T*>(call.dy)}, static_cast<T*>(call.out), finish.of_dy, false});
  QueueMap(queue, plan,
           NormalizeTo<T, V>{{static_cast<const T*>(call.x)}, static_cast<T*>(call.out_dy), finish.of_x, false});
}

}  // namespace onnx_cbp::cuda
