// The kernels: for each op of the table a function of a call and of the op's arguments, ChannelStats(call, arguments)
// and so on. A call says how large the tensors are, of which types, and who runs the tasks. They return false where a
// type is unknown.
#pragma once

#include <cstdint>

#include "../ops/arguments.h"
#include "convolutions/windows.h"
#include "dividing/executor.h"
#include "dividing/partition.h"

namespace onnx_cbp {

class Collective;

struct TensorCall {
  int x_type, stats_type;
  const Executor& executor;
  Layout layout;
};

// On vectors of one number a channel alone.
struct VectorsCall {
  int stats_type;
  int64_t channels;
};

struct ReplicasCall {
  int stats_type;
  int64_t replicas, channels;
};

// A convolution.
struct WindowsCall {
  int x_type;
  const Executor& executor;
  const Windows& windows;
};
using DepthwiseWindowsCall = WindowsCall;
using DenseWindowsCall = WindowsCall;

// Collectives throw CollectiveError. replicas is what collective.Replicas() answered.
struct GatherCall {
  int stats_type;
  int64_t channels, replicas;
  const Collective& collective;
};

struct ReduceCall {
  int stats_type;
  int64_t channels;
  const Collective& collective;
};

#define ONNX_CBP_KERNEL(Name, name, sizes) bool Name(const sizes##Call& call, const Name##Arguments& arguments);
ONNX_CBP_OPS(ONNX_CBP_KERNEL)
#undef ONNX_CBP_KERNEL

}  // namespace onnx_cbp
