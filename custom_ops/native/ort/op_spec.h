// What the adapter knows of an op. An op is one file: its formals, and the call of its kernel.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../collectives/communicator.h"
#include "../kernels/executor.h"
#include "../kernels/partition.h"
#include "../kernels/windows.h"

namespace onnx_cbp {

enum class TypeOf { kData, kStatistics, kCount };  // T, U, int64
// The shape of X, [C], [], [R], [R, C]; one place a window of a depthwise convolution of X, the shape of its weight;
// the same of a convolution of one group, and its weight's with the first two axes exchanged.
enum class ShapeOf {
  kData,
  kChannels,
  kScalar,
  kReplicas,
  kReplicaChannels,
  kWindows,
  kKernel,
  kOutputs,
  kWeight,
  kExchangedWeight
};

struct Formal {
  const char* name;
  TypeOf type;
  ShapeOf shape;
};

// Attributes that some op has; each op reads those that its spec names.
struct Attributes {
  int64_t axis = 1;
  int64_t stash_type = 1;
  float epsilon = 1e-5f;
  float momentum = 0.9f;
  int64_t unbiased = 0;
  int64_t relu = 0;
  std::string group = "world";
  std::string reduction = "sum";
  std::string layer;
  std::vector<int64_t> kernel_shape, strides, pads, dilations;  // empty where the node has none
};

struct Call {
  int data_type;
  int statistics_type;
  Layout layout;
  int64_t replicas;
  const Attributes& attributes;
  const std::vector<const void*>& inputs;
  const std::vector<void*>& outputs;
  const Executor& executor;
  const Collective* collective;  // null where the op is none
  const Windows* windows;        // null where the op has none

  template <typename T>
  const T* input(size_t index) const {
    return static_cast<const T*>(inputs[index]);
  }
  template <typename T>
  T* output(size_t index) const {
    return static_cast<T*>(outputs[index]);
  }
  // The same call with other threads.
  Call On(const Executor& other) const {
    return {data_type, statistics_type, layout, replicas, attributes, inputs, outputs, other, collective, windows};
  }
  // The same call of other memory.
  Call With(const std::vector<const void*>& other_inputs, const std::vector<void*>& other_outputs) const {
    return {data_type,    statistics_type, layout,   replicas,   attributes,
            other_inputs, other_outputs,   executor, collective, windows};
  }
};

class CudaCall;

struct OpSpec {
  const char* name;
  std::vector<Formal> inputs;
  std::vector<Formal> outputs;
  std::vector<const char*> attributes;
  // On the processor: false where there is no kernel for the types.
  bool (*run)(const Call& call);
  // Queues the work on the GPU; answers null, or what went wrong. Null for a collective, whose messages are
  // the processor's to send, and for what cuDNN does better: there `run` serves, on copies.
  const char* (*run_on_cuda)(const CudaCall& cuda) = nullptr;
  bool is_collective = false;

  // ONNX's number of a formal's type.
  static int TypeNumber(const Formal& formal, int data_type, int statistics_type);
  // Index of X among the inputs, -1 where the op sees per-channel vectors only.
  int data_input() const;
  // Whether an input tells the type of the statistics; otherwise the attribute stash_type does.
  bool has_statistics_input() const;
  // Whether an input or output has that type.
  bool has_statistics() const;
  // Whether the op looks at X through the windows of a convolution.
  bool has_windows() const;
  // Whether that convolution has one group; otherwise it is depthwise.
  bool is_dense() const;
};

// Formals that several ops share.
namespace formal {
constexpr Formal kX{"X", TypeOf::kData, ShapeOf::kData};
constexpr Formal kY{"Y", TypeOf::kData, ShapeOf::kData};
constexpr Formal kDY{"dY", TypeOf::kData, ShapeOf::kData};
constexpr Formal kDX{"dX", TypeOf::kData, ShapeOf::kData};
constexpr Formal kScale{"scale", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kB{"B", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kMean{"mean", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kVar{"var", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kInvStd{"inv_std", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kRunningMean{"running_mean", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kRunningVar{"running_var", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kUpdatedMean{"updated_mean", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kUpdatedVar{"updated_var", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kSlope{"slope", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kOffset{"offset", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kScaleGrad{"scale_grad", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kBiasGrad{"bias_grad", TypeOf::kStatistics, ShapeOf::kChannels};
constexpr Formal kDYOfWindows{"dY", TypeOf::kData, ShapeOf::kWindows};
constexpr Formal kDW{"dW", TypeOf::kData, ShapeOf::kKernel};
constexpr Formal kW{"W", TypeOf::kData, ShapeOf::kWeight};
constexpr Formal kExchangedW{"W", TypeOf::kData, ShapeOf::kExchangedWeight};
constexpr Formal kYOfConv{"Y", TypeOf::kData, ShapeOf::kOutputs};
constexpr Formal kDYOfConv{"dY", TypeOf::kData, ShapeOf::kOutputs};
constexpr Formal kDWOfConv{"dW", TypeOf::kData, ShapeOf::kWeight};
constexpr Formal kCount{"count", TypeOf::kCount, ShapeOf::kScalar};
}  // namespace formal

extern const OpSpec kChannelStats;
extern const OpSpec kChannelStatsMerge;
extern const OpSpec kChannelNormalize;
extern const OpSpec kChannelBackpropStats;
extern const OpSpec kChannelBackprop;
extern const OpSpec kChannelBackpropStatsGrad;
extern const OpSpec kConvGradWeight;
extern const OpSpec kDepthwiseConvGradWeight;
extern const OpSpec kDirectConv;
extern const OpSpec kDirectConvExchanged;
extern const OpSpec kRunningStats;
extern const OpSpec kBatchNormTrain;
extern const OpSpec kBatchNormTrainUpdate;
extern const OpSpec kBatchNormGrad;
extern const OpSpec kBatchNormReluGrad;
extern const OpSpec kBatchNormReluTrainUpdate;
extern const OpSpec kBatchNormRecomputeReluGrad;
extern const OpSpec kAllGather;
extern const OpSpec kAllReduce;
extern const OpSpec kAllReduceBucket;

}  // namespace onnx_cbp
