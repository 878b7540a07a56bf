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
#define ONNX_CBP_REPLAY(Name, function, sizes) \
  if (name == "onnx_cbp_cuda_" #function) return replaying::Replay(name, onnx_cbp_cuda_##function);
  ONNX_CBP_OPS_WITH_CUDA(ONNX_CBP_REPLAY)
#undef ONNX_CBP_REPLAY
  replaying::Fail("no function '" + name + "'");
}

}  // namespace

int main() {
  replaying::ReplayAll(ReplayByName);
  return 0;
}
