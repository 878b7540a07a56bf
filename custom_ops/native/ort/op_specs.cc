// What ONNX Runtime learns about every op, and how the op's kernels are called.
#include <cstddef>
#include <string>
#include <type_traits>

#include "../kernels/op.h"
#include "cuda/cuda_call.h"
#include "op_spec.h"

namespace onnx_cbp {
namespace {

std::vector<const char*> Joined(std::vector<const char*> first, const std::vector<const char*>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// An attribute, as kernels take it.
template <typename T>
T As(float value) {
  return static_cast<T>(value);
}
template <typename T>
T As(int64_t flag) {
  return static_cast<T>(flag != 0);
}
template <typename T>
T As(const std::string& text) {
  return text.c_str();
}

// A call, as a kernel takes it.
template <typename To>
To CallAs(const OpCall& call) {
  if constexpr (std::is_same_v<To, TensorCall>) {
    return {call.data_type, call.statistics_type, call.executor, call.layout};
  } else if constexpr (std::is_same_v<To, WindowsCall>) {
    return {call.data_type, call.executor, *call.windows};
  } else if constexpr (std::is_same_v<To, VectorsCall>) {
    return {call.statistics_type, call.layout.channels};
  } else if constexpr (std::is_same_v<To, ReplicasCall>) {
    return {call.statistics_type, call.replicas, call.layout.channels};
  } else if constexpr (std::is_same_v<To, GatherCall>) {
    return {call.statistics_type, call.layout.channels, call.replicas, *call.collective};
  } else {
    return {call.statistics_type, call.layout.channels, *call.collective};
  }
}

// The tensors of a call, one after the other.
class Next {
 public:
  explicit Next(const OpCall& call) : call_(call) {}
  const void* input() { return call_.inputs[in_++]; }
  void* output() { return call_.outputs[out_++]; }

 private:
  const OpCall& call_;
  size_t in_ = 0, out_ = 0;
};

#define ONNX_CBP_NOTHING(...)
#define ONNX_CBP_NAME(type, name) #name,
#define ONNX_CBP_FORMAL(name, formal, kind) {#formal, ONNX_CBP_TYPE_##kind, ONNX_CBP_SHAPE_##kind},

// Braces evaluate from left to right.
#define ONNX_CBP_ATTRIBUTE_OF(type, name) As<type>(call.attributes.name),
#define ONNX_CBP_NEXT_INPUT(name, formal, kind) Input<formal_##name>(next.input()),
#define ONNX_CBP_NEXT_OUTPUT(name, formal, kind) Result<formal_##name>(next.output()),
#define ONNX_CBP_ARGUMENTS_OF(Name, name)                                                          \
  Name##Arguments Name##Of(const OpCall& call) {                                                   \
    Next next(call);                                                                               \
    return {ONNX_CBP_OF_##name(ONNX_CBP_ATTRIBUTE_OF, ONNX_CBP_NEXT_INPUT, ONNX_CBP_NEXT_OUTPUT)}; \
  }
#define ONNX_CBP_ON_PROCESSOR(Name, name, sizes) \
  ONNX_CBP_ARGUMENTS_OF(Name, name)              \
  bool Name##OnProcessor(const OpCall& call) { return Name(CallAs<sizes##Call>(call), Name##Of(call)); }
ONNX_CBP_OPS(ONNX_CBP_ON_PROCESSOR)

#define ONNX_CBP_PASS_ATTRIBUTE(type, name) , arguments.name
#define ONNX_CBP_PASS_TENSOR(name, formal, kind) , arguments.name.As<ONNX_CBP_ELEMENT_##kind>()
#define ONNX_CBP_ON_CUDA(Name, name, sizes)                                                                         \
  const char* Name##OnCuda(const CudaCall& cuda) {                                                                  \
    const Name##Arguments arguments = Name##Of(cuda.call);                                                          \
    return cuda.On##sizes(                                                                                          \
        cuda.library.name ONNX_CBP_OF_##name(ONNX_CBP_PASS_ATTRIBUTE, ONNX_CBP_PASS_TENSOR, ONNX_CBP_PASS_TENSOR)); \
  }
ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_ON_CUDA)

std::vector<OpSpec> MakeSpecs() {
  // The attributes from which the sizes of a call are computed.
  using Names = std::vector<const char*>;
  const Names of_convolution = {"kernel_shape", "strides", "pads", "dilations"};
  const Names ofTensor = {"axis"}, ofDepthwiseWindows = of_convolution, ofDenseWindows = of_convolution;
  const Names ofVectors, ofReplicas, ofGather, ofReduce;
  std::vector<OpSpec> specs;
#define ONNX_CBP_SPEC(Name, name, sizes, on_cuda, is_collective)                                               \
  specs.push_back({#Name,                                                                                      \
                   {ONNX_CBP_OF_##name(ONNX_CBP_NOTHING, ONNX_CBP_FORMAL, ONNX_CBP_NOTHING)},                  \
                   {ONNX_CBP_OF_##name(ONNX_CBP_NOTHING, ONNX_CBP_NOTHING, ONNX_CBP_FORMAL)},                  \
                   Joined(of##sizes, {ONNX_CBP_OF_##name(ONNX_CBP_NAME, ONNX_CBP_NOTHING, ONNX_CBP_NOTHING)}), \
                   Name##OnProcessor,                                                                          \
                   on_cuda,                                                                                    \
                   is_collective});
#define ONNX_CBP_SPEC_WITH_CUDA(Name, name, sizes) ONNX_CBP_SPEC(Name, name, sizes, Name##OnCuda, false)
#define ONNX_CBP_SPEC_OF_CONVOLUTION(Name, name, sizes) ONNX_CBP_SPEC(Name, name, sizes, nullptr, false)
#define ONNX_CBP_SPEC_OF_COLLECTIVE(Name, name, sizes) ONNX_CBP_SPEC(Name, name, sizes, nullptr, true)
  ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_SPEC_WITH_CUDA)
  ONNX_CBP_CONVOLUTIONS(ONNX_CBP_SPEC_OF_CONVOLUTION)
  ONNX_CBP_COLLECTIVES(ONNX_CBP_SPEC_OF_COLLECTIVE)
  for (OpSpec& spec : specs) {
    if (spec.has_statistics() && !spec.has_statistics_input()) spec.attributes.push_back("stash_type");
  }
  return specs;
}

}  // namespace

const std::vector<OpSpec>& OpSpecs() {
  static const auto* const specs = new std::vector<OpSpec>(MakeSpecs());
  return *specs;
}

}  // namespace onnx_cbp
