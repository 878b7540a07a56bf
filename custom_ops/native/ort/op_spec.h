// What the adapter knows about an op. All of it comes from the table (../ops/table.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../collectives/communicator.h"
#include "../kernels/convolutions/windows.h"
#include "../kernels/dividing/executor.h"
#include "../kernels/dividing/partition.h"
#include "../ops/formals.h"

namespace onnx_cbp {

// The attributes of all ops, named as in the table; each op reads those that its spec names.
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
  std::vector<int64_t> kernel_shape, strides, pads, dilations;  // empty if the node has none
};

// One run of a node: its tensors, and what is known about them.
struct OpCall {
  int data_type;
  int statistics_type;
  Layout layout;
  int64_t replicas;
  const Attributes& attributes;
  const std::vector<const void*>& inputs;
  const std::vector<void*>& outputs;
  const Executor& executor;
  const Collective* collective;  // null if the op is not a collective
  const Windows* windows;        // null if the op has no windows

  template <typename T>
  const T* input(size_t index) const {
    return static_cast<const T*>(inputs[index]);
  }
  // The same call with other threads.
  OpCall On(const Executor& other) const {
    return {data_type, statistics_type, layout, replicas, attributes, inputs, outputs, other, collective, windows};
  }
  // The same call on other memory.
  OpCall With(const std::vector<const void*>& other_inputs, const std::vector<void*>& other_outputs) const {
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
  // Runs on the processor. False if there is no kernel for the types.
  bool (*run)(const OpCall& call);
  // Queues the work on the GPU; returns null, or what went wrong. The function itself is null in two cases: for a
  // collective, since the processor sends its messages, and for ops that cuDNN does better. Then `run` works on copies.
  const char* (*run_on_cuda)(const CudaCall& cuda) = nullptr;
  bool is_collective = false;

  // ONNX's number for the type of a formal.
  static int TypeNumber(const Formal& formal, int data_type, int statistics_type);
  // The index of X among the inputs; -1 if the op has only per-channel vectors.
  int data_input() const;
  // Whether an input has the type of the statistics; if none has, the attribute stash_type decides.
  bool has_statistics_input() const;
  // Whether an input or output has that type.
  bool has_statistics() const;
  // Whether the op works on the windows of a convolution over X.
  bool has_windows() const;
  // Whether that convolution has one group; otherwise it is depthwise.
  bool is_dense() const;
};

// All ops. They live as long as the process, since ONNX Runtime keeps pointers to their names.
const std::vector<OpSpec>& OpSpecs();

}  // namespace onnx_cbp
