// Runs recorded calls of the plain C functions (replaying.h). With the argument --target it only tells which target it
// would run.
#include "c_api.h"
#include "replaying.h"

namespace {

void ReplayByName(const std::string& name) {
#define ONNX_CBP_REPLAY(Name, function, sizes) \
  if (name == "onnx_cbp_" #function) return replaying::Replay(name, onnx_cbp_##function);
  ONNX_CBP_OPS(ONNX_CBP_REPLAY)
#undef ONNX_CBP_REPLAY
  replaying::Fail("no function '" + name + "'");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--target") == 0) {
    std::puts(onnx_cbp_target());
    return 0;
  }
  replaying::ReplayAll(ReplayByName);
}
