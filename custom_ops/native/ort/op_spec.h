// What the adapter knows of an op. All of it is made of the table (../ops/table.h).
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

// Attributes that some op has, named as the table has them; each op reads those that its spec names.
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

// A node's run: its tensors, and what is known of them.
struct OpCall {
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
  // The same call with other threads.
  OpCall On(const Executor& other) const {
    return {data_type, statistics_type, layout, replicas, attributes, inputs, outputs, other, collective, windows};
  }
  // The same call of other memory.
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
  // On the processor: false where there is no kernel for the types.
  bool (*run)(const OpCall& call);
  // Queues the work on the GPU; returns null, or what went wrong. Null for a collective, whose messages are
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

// All ops. They live as long as the process: ONNX Runtime keeps pointers to what they name.
const std::vector<OpSpec>& OpSpecs();

}  // namespace onnx_cbp
