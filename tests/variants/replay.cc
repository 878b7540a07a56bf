// Runs recorded calls of the plain C functions (replaying.h). With the argument --target it only tells which target it
// would run.
#include "c_api.h"
#include "replaying.h"

namespace {

void ReplayByName(const std::string& name) {
#define ONNX_CBP_REPLAY(function) \
  if (name == #function) return replaying::Replay(name, function)
  ONNX_CBP_REPLAY(onnx_cbp_all_gather);
  ONNX_CBP_REPLAY(onnx_cbp_all_reduce);
  ONNX_CBP_REPLAY(onnx_cbp_all_reduce_bucket);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_grad);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_recompute_relu_grad);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_relu_grad);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_relu_train_update);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_train);
  ONNX_CBP_REPLAY(onnx_cbp_batch_norm_train_update);
  ONNX_CBP_REPLAY(onnx_cbp_channel_backprop);
  ONNX_CBP_REPLAY(onnx_cbp_channel_backprop_stats);
  ONNX_CBP_REPLAY(onnx_cbp_channel_backprop_stats_grad);
  ONNX_CBP_REPLAY(onnx_cbp_channel_normalize);
  ONNX_CBP_REPLAY(onnx_cbp_channel_stats);
  ONNX_CBP_REPLAY(onnx_cbp_channel_stats_merge);
  ONNX_CBP_REPLAY(onnx_cbp_conv_grad_weight);
  ONNX_CBP_REPLAY(onnx_cbp_depthwise_conv_grad_weight);
  ONNX_CBP_REPLAY(onnx_cbp_direct_conv);
  ONNX_CBP_REPLAY(onnx_cbp_direct_conv_exchanged);
  ONNX_CBP_REPLAY(onnx_cbp_running_stats);
#undef ONNX_CBP_REPLAY
  replaying::Fail("no function '" + name + "': name it in replay.cc");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--target") == 0) {
    std::puts(onnx_cbp_target());
    return 0;
  }
  replaying::ReplayAll(ReplayByName);
}
