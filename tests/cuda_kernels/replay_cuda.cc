// Runs recorded calls (tests/variants/replaying.h) of the CUDA kernels' plain C functions on memory of the processor.
#include "c_api.h"
#include "replaying.h"

namespace replaying {

// Recorded as the shape of which it has the workspace, of exactly the size that was asked for.
template <>
struct Argument<onnx_cbp_cuda_queue> {
  int64_t size = SizeOfNext();
  std::unique_ptr<unsigned char[]> workspace{new unsigned char[static_cast<size_t>(size)]};

  Argument() { std::memset(workspace.get(), 0xff, static_cast<size_t>(size)); }
  onnx_cbp_cuda_queue Get() const { return {nullptr, workspace.get()}; }
  void Write() const {}

 private:
  static int64_t SizeOfNext() {
    const int64_t outer = ReadNumber<int64_t>(), channels = ReadNumber<int64_t>(), inner = ReadNumber<int64_t>();
    const int64_t bytes = onnx_cbp_cuda_workspace(outer, channels, inner);
    if (bytes < 0) Fail("there is no workspace for this shape");
    return bytes;
  }
};

}  // namespace replaying

namespace {

void ReplayByName(const std::string& name) {
#define ONNX_CBP_REPLAY(function) \
  if (name == #function) return replaying::Replay(name, function)
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_grad);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_recompute_relu_grad);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_relu_grad);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_relu_train_update);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_train);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_batch_norm_train_update);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_backprop);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_backprop_stats);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_backprop_stats_grad);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_normalize);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_stats);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_channel_stats_merge);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_depthwise_conv_grad_weight);
  ONNX_CBP_REPLAY(onnx_cbp_cuda_running_stats);
#undef ONNX_CBP_REPLAY
  replaying::Fail("no function '" + name + "': name it in replay_cuda.cc");
}

}  // namespace

int main() {
  replaying::ReplayAll(ReplayByName);
  return 0;
}
