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

// The workspace: the coefficients of every channel, then the partial sums.
template <typename Coefficients, typename Partial>
struct Workspace {
  static constexpr int64_t kAlignment = 16;
  Coefficients* coefficients;
  Partial* partials;

  Workspace(const Queue& queue, const Layout& layout) {
    const int64_t bytes = layout.channels * static_cast<int64_t>(sizeof(Coefficients));
    coefficients = reinterpret_cast<Coefficients*>(queue.workspace());
    partials = reinterpret_cast<Partial*>(queue.workspace() + (bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
};

// kWidth is 1, or the width of a vector, as the plan says.
template <int kWidth, typename Gather>
void LaunchGather(Queue* queue, const Plan& plan, const Gather& gather, typename Gather::Partial* partials) {
  if (plan.by_plane) {
    queue->Launch(GatherPlanes<Gather, kWidth>{gather, plan.planes, partials}, plan.tasks());
  } else {
    using Kernel = GatherTiles<Gather, kWidth>;
    queue->Launch(Kernel{gather, plan.tiles, partials}, plan.tasks(), Kernel::kShared);
  }
}

// Sums every channel, and finishes it. coefficients may be null.
template <typename Gather, typename Finish>
void QueueGather(Queue* queue, const Plan& plan, const Gather& gather, const Finish& finish,
                 typename Gather::Partial* partials, typename Finish::Coefficients* coefficients) {
  if (plan.width() == 1) {
    LaunchGather<1>(queue, plan, gather, partials);
  } else {
    LaunchGather<kVectorWidth<typename Gather::Element>>(queue, plan, gather, partials);
  }
  if (plan.by_plane) {
    queue->Launch(MergePartials<Finish, Planes>{finish, plan.planes, partials, coefficients}, plan.planes.channels);
  } else {
    queue->Launch(MergePartials<Finish, Tiles>{finish, plan.tiles, partials, coefficients}, plan.tiles.channels);
  }
}

template <int kWidth, typename Map>
void LaunchMap(Queue* queue, const Plan& plan, const Map& map) {
  if (plan.by_plane) {
    queue->Launch(MapPlanes<Map, kWidth>{map, plan.planes}, plan.tasks());
  } else {
    queue->Launch(MapTiles<Map, kWidth>{map, plan.tiles}, plan.tasks());
  }
}

// Writes every element.
template <typename Map>
void QueueMap(Queue* queue, const Plan& plan, const Map& map) {
  if (plan.width() == 1) {
    LaunchMap<1>(queue, plan, map);
  } else {
    LaunchMap<kVectorWidth<typename Map::Element>>(queue, plan, map);
  }
}

// Launches both passes as one and returns true, under two conditions. A channel must fit into shared memory, twice on a
// multiprocessor, since a single block would leave memory idle while it sums. And one block per channel must not leave
// most of the device idle, unless there is so little to do that three launches would take longer.
template <int kWidth, typename Gather, typename Finish, typename Map>
bool LaunchedOnePass(Queue* queue, const Planes& planes, const Gather& gather, const Finish& finish, const Map& map) {
  constexpr int64_t kLittle = 16 * 1024;
  using Kernel = OnePass<Gather, Finish, Map, kWidth>;
  const int64_t shared = Kernel::Shared(planes);
  const bool fills = planes.channels >= queue->device().multiprocessors / 2 || shared <= kLittle;
  if (shared > queue->device().shared || planes.parts > Kernel::kMostParts || !fills) return false;
  queue->Launch(Kernel{gather, finish, map, planes}, planes.channels, static_cast<size_t>(shared));
  return true;
}

// Sums every channel, finishes it, and writes its elements. map reads the coefficients that finish leaves in the
// workspace; if both passes are one, the coefficients stay in shared memory.
template <typename Space, typename Gather, typename Finish, typename Map>
void QueueBoth(Queue* queue, const Plan& plan, const Space& space, const Gather& gather, const Finish& finish,
               const Map& map) {
  constexpr int kVector = kVectorWidth<typename Gather::Element>;
  if (plan.by_plane && (plan.width() == 1 ? LaunchedOnePass<1>(queue, plan.planes, gather, finish, map)
                                          : LaunchedOnePass<kVector>(queue, plan.planes, gather, finish, map))) {
    return;
  }
  QueueGather(queue, plan, gather, finish, space.partials, space.coefficients);
  QueueMap(queue, plan, map);
}

template <typename Finish>
void QueueEmpty(Queue* queue, const Layout& layout, const Finish& finish) {
  QueueForEachChannel(queue, layout.channels, FinishEmpty<Finish>{finish});
}

template <typename T, typename V>
MomentsOf<T, V> MakeMomentsOf(const Operands& operands) {
  return {{static_cast<const T*>(operands.x)}, operands.stats_type == kFloat};
}

template <typename T, typename V>
NormalizeTo<T, V> MakeNormalizeTo(const Operands& operands, const NormalizeCoefficients<V>* coefficients) {
  return {{static_cast<const T*>(operands.x)}, static_cast<T*>(operands.out), coefficients, operands.relu};
}

// If slope and offset are given, the ReLU's mask is recomputed from them.
template <typename T, typename V>
ReadsGradient<T, V> MakeReadsGradient(const Operands& operands, const Statistics& mean, const Statistics& slope = {},
                                      const Statistics& offset = {}) {
  return {static_cast<const T*>(operands.dy),
          static_cast<const T*>(operands.x),
          static_cast<const T*>(operands.y_of_relu),
          mean,
          slope,
          offset};
}

template <typename T, typename V>
SumsOf<T, V> MakeSumsOf(const Queue& queue, const Operands& operands, const ReadsGradient<T, V>& reads) {
  return {reads, operands.stats_type == kFloat && (sizeof(T) < sizeof(float) || queue.device().slow_double)};
}

template <typename T, typename V>
void Passes<T, V>::Stats(Queue* queue, const Operands& operands, const StatsOutputs& outputs) {
  const FinishStats finish{outputs};
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<NoCoefficients, Moments> space(*queue, operands.layout);
  QueueGather(queue, PlanOf<T>(operands), MakeMomentsOf<T, V>(operands), finish, space.partials, nullptr);
}

template <typename T, typename V>
void Passes<T, V>::Train(Queue* queue, const Operands& operands, const FinishTrain<V>& finish) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<NormalizeCoefficients<V>, Moments> space(*queue, operands.layout);
  QueueBoth(queue, PlanOf<T>(operands), space, MakeMomentsOf<T, V>(operands), finish,
            MakeNormalizeTo<T, V>(operands, space.coefficients));
}

// The coefficients of a normalisation by given statistics.
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
  const Workspace<NormalizeCoefficients<V>, Moments> space(*queue, operands.layout);
  QueueForEachChannel(queue, operands.layout.channels,
                      PrepareNormalize<V>{arguments.epsilon, operands.Of(arguments.scale), operands.Of(arguments.b),
                                          operands.Of(arguments.mean), operands.Of(arguments.var), space.coefficients});
  QueueMap(queue, PlanOf<T>(operands), MakeNormalizeTo<T, V>(operands, space.coefficients));
}

template <typename T, typename V>
void Passes<T, V>::BackpropStats(Queue* queue, const Operands& operands, const FinishSums<V>& finish) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<BackpropCoefficients<V>, Sums> space(*queue, operands.layout);
  const ReadsGradient<T, V> reads = MakeReadsGradient<T, V>(operands, finish.mean);
  QueueGather(queue, PlanOf<T>(operands), MakeSumsOf(*queue, operands, reads), finish, space.partials, nullptr);
}

template <typename T, typename V>
void Passes<T, V>::Grad(Queue* queue, const Operands& operands, const FinishSums<V>& finish, const Statistics& slope,
                        const Statistics& offset) {
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Workspace<BackpropCoefficients<V>, Sums> space(*queue, operands.layout);
  const ReadsGradient<T, V> reads = MakeReadsGradient<T, V>(operands, finish.mean, slope, offset);
  QueueBoth(queue, PlanOf<T>(operands), space, MakeSumsOf(*queue, operands, reads), finish,
            BackpropTo<T, V>{reads, static_cast<T*>(operands.out), space.coefficients});
}

// The coefficients of a gradient from given sums.
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
  const Workspace<BackpropCoefficients<V>, Sums> space(*queue, operands.layout);
  const Statistics mean = operands.Of(arguments.mean);
  QueueForEachChannel(queue, operands.layout.channels,
                      PrepareBackprop<V>{operands.Of(arguments.scale), mean, operands.Of(arguments.inv_std),
                                         operands.Of(arguments.scale_grad), operands.Of(arguments.bias_grad),
                                         arguments.count.As<int64_t>(), space.coefficients});
  QueueMap(
      queue, PlanOf<T>(operands),
      BackpropTo<T, V>{MakeReadsGradient<T, V>(operands, mean), static_cast<T*>(operands.out), space.coefficients});
}

template <typename T, typename V>
void Passes<T, V>::BackpropStatsGrad(Queue* queue, const Operands& operands, FinishStatsGrad<V> finish) {
  struct Both {
    NormalizeCoefficients<V> of_dy, of_x;
  };
  const Workspace<Both, Sums> space(*queue, operands.layout);
  // Two arrays and not one of pairs: each map reads its own array.
  finish.of_dy = reinterpret_cast<NormalizeCoefficients<V>*>(space.coefficients);
  finish.of_x = finish.of_dy + operands.layout.channels;
  if (operands.layout.empty()) return QueueEmpty(queue, operands.layout, finish);
  const Plan plan = PlanOf<T>(operands);
  const ReadsGradient<T, V> reads = MakeReadsGradient<T, V>(operands, finish.mean);
  QueueGather(queue, plan, MakeSumsOf(*queue, operands, reads), finish, space.partials, nullptr);
  QueueMap(queue, plan, NormalizeTo<T, V>{{reads.dy}, static_cast<T*>(operands.out), finish.of_dy, false});
  QueueMap(queue, plan, NormalizeTo<T, V>{{reads.x}, static_cast<T*>(operands.out_dy), finish.of_x, false});
}

}  // namespace onnx_cbp::cuda
