// The definitions of Passes, for the files that compile them.
#pragma once

#include <algorithm>

#include "../elements/backprop_op.h"
#include "../elements/normalize_op.h"
#include "../kernels/channels.h"
#include "../kernels/gather.h"
#include "../kernels/map.h"
#include "../kernels/one_pass.h"
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
Plan PlanOf(const Operands& operands) {
  constexpr uintptr_t kBytes = sizeof(T) * kVectorWidth<T>;
  bool aligned = true;
  for (const void* tensor : {operands.x, operands.dy, operands.y_of_relu, static_cast<const void*>(operands.out),
                             static_cast<const void*>(operands.out_dy)}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(tensor) % kBytes == 0;
  }
  return MakePlan(operands.layout, kVectorWidth<T>, aligned);
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
MomentsOf<T, V> Moments(const Operands& operands) {
  return {{static_cast<const T*>(operands.x)}, operands.stats_type == kFloat};
}

template <typename T, typename V>
NormalizeTo<T, V> Normalized(const Operands& operands, const NormalizeCoefficients<V>* coefficients) {
  return {{static_cast<const T*>(operands.x)}, static_cast<T*>(operands.out), coefficients, operands.relu};
}

template <typename T, typename V>
ReadsGradient<T, V> Gradient(const Operands& operands, const Statistics& mean, const Statistics& slope,
                             const Statistics& offset) {
  return {static_cast<const T*>(operands.dy),
          static_cast<const T*>(operands.x),
          static_cast<const T*>(operands.y_of_relu),
          mean,
          slope,
          offset};
}

template <typename T, typename V>
SumsOf<T, V> GradientSums(const Queue& queue, const Operands& operands, const ReadsGradient<T, V>& reads) {
  return {reads, operands.stats_type == kFloat && (sizeof(T) < sizeof(float) || queue.device().slow_double)};
}

template <typename T, typename V>
void Passes<T, V>::Stats(Queue* queue, const Operands& operands, const StatsOutputs& outputs) {
  const FinishStats finish{outputs};
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<NormalizeCoefficients<V>> space(*queue, operands.layout);
  QueueGather(queue, PlanOf<T>(operands), Moments<T, V>(operands), finish, space.partials,
              static_cast<NoCoefficients*>(nullptr));
}

template <typename T, typename V>
void Passes<T, V>::Train(Queue* queue, const Operands& operands, const FinishTrain<V>& finish) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Plan plan = PlanOf<T>(operands);
  const Workspace<NormalizeCoefficients<V>> space(*queue, operands.layout);
  const MomentsOf<T, V> gather = Moments<T, V>(operands);
  const NormalizeTo<T, V> map = Normalized<T, V>(operands, space.coefficients);
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
void Passes<T, V>::Normalize(Queue* queue, const Operands& operands, const ChannelNormalizeArguments& arguments) {
  if (operands.layout.empty()) return;
  const Workspace<NormalizeCoefficients<V>> space(*queue, operands.layout);
  QueueForEachChannel(queue, operands.layout.channels,
                      PrepareNormalize<V>{arguments.epsilon, operands.Of(arguments.scale), operands.Of(arguments.b),
                                          operands.Of(arguments.mean), operands.Of(arguments.var), space.coefficients});
  QueueMap(queue, PlanOf<T>(operands), Normalized<T, V>(operands, space.coefficients));
}

template <typename T, typename V>
void Passes<T, V>::Sums(Queue* queue, const Operands& operands, const FinishSums<V>& finish) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<BackpropCoefficients<V>> space(*queue, operands.layout);
  QueueGather(queue, PlanOf<T>(operands), GradientSums(*queue, operands, Gradient<T, V>(operands, finish.mean, {}, {})),
              finish, space.partials, static_cast<BackpropCoefficients<V>*>(nullptr));
}

template <typename T, typename V>
void Passes<T, V>::Grad(Queue* queue, const Operands& operands, const FinishSums<V>& finish, const Statistics& slope,
                        const Statistics& offset) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Plan plan = PlanOf<T>(operands);
  const Workspace<BackpropCoefficients<V>> space(*queue, operands.layout);
  const ReadsGradient<T, V> reads = Gradient<T, V>(operands, finish.mean, slope, offset);
  const SumsOf<T, V> gather = GradientSums(*queue, operands, reads);
  const BackpropTo<T, V> map{reads, static_cast<T*>(operands.out), space.coefficients};
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
void Passes<T, V>::Backprop(Queue* queue, const Operands& operands, const ChannelBackpropArguments& arguments) {
  if (operands.layout.empty()) return;
  const Workspace<BackpropCoefficients<V>> space(*queue, operands.layout);
  const Statistics mean = operands.Of(arguments.mean);
  QueueForEachChannel(queue, operands.layout.channels,
                      PrepareBackprop<V>{operands.Of(arguments.scale), mean, operands.Of(arguments.inv_std),
                                         operands.Of(arguments.scale_grad), operands.Of(arguments.bias_grad),
                                         arguments.count.As<int64_t>(), space.coefficients});
  QueueMap(queue, PlanOf<T>(operands),
           BackpropTo<T, V>{Gradient<T, V>(operands, mean, {}, {}), static_cast<T*>(operands.out), space.coefficients});
}

template <typename T, typename V>
void Passes<T, V>::StatsGrad(Queue* queue, const Operands& operands, FinishStatsGrad<V> finish) {
  struct Both {
    NormalizeCoefficients<V> of_dy, of_x;
  };
  const Workspace<Both> space(*queue, operands.layout);
  // One after the other: each map reads an array of its own.
  finish.of_dy = reinterpret_cast<NormalizeCoefficients<V>*>(space.coefficients);
  finish.of_x = finish.of_dy + operands.layout.channels;
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Plan plan = PlanOf<T>(operands);
  QueueGather(queue, plan, GradientSums(*queue, operands, Gradient<T, V>(operands, finish.mean, {}, {})), finish,
              space.partials, static_cast<NoCoefficients*>(nullptr));
  QueueMap(queue, plan,
           NormalizeTo<T, V>{{static_cast<const T*>(operands.dy)}, static_cast<T*>(operands.out), finish.of_dy, false});
  QueueMap(
      queue, plan,
      NormalizeTo<T, V>{{static_cast<const T*>(operands.x)}, static_cast<T*>(operands.out_dy), finish.of_x, false});
}

}  // namespace onnx_cbp::cuda
