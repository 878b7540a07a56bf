// The kernels: one function for each op of the table, such as ChannelStats(call, arguments). A call has the sizes and
// types of the tensors, and runs the tasks. Kernels return false if a type is unknown.
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

// A call that has only vectors of one number per channel.
struct VectorsCall {
  int stats_type;
  int64_t channels;
};

struct ReplicasCall {
  int stats_type;
  int64_t replicas, channels;
};

// A call of a convolution.
struct WindowsCall {
  int x_type;
  const Executor& executor;
  const Windows& windows;
};
using DepthwiseWindowsCall = WindowsCall;
using DenseWindowsCall = WindowsCall;

// Collectives throw CollectiveError. replicas is the result of collective.Replicas().
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
