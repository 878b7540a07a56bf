// Checks what the CUDA kernels' plain C functions answer to arguments that they refuse. Says what is wrong, one line
// each, and ends with 1.
#include <cstdio>
#include <cstring>

#include "c_api.h"

namespace {

int failures = 0;

void Expect(const char* got, const char* want) {
  if (got != nullptr && std::strcmp(got, want) == 0) return;
  ++failures;
  std::printf("'%s' is answered, not '%s'\n", got == nullptr ? "success" : got, want);
}

const char* Stats(int x_type, int stats_type, int64_t outer, int64_t channels, int64_t inner) {
  return onnx_cbp_cuda_channel_stats({}, x_type, stats_type, outer, channels, inner, nullptr, nullptr, nullptr,
                                     nullptr);
}

}  // namespace

int main() {
  constexpr const char* kUnknownType =
      "onnx_cbp_cuda_channel_stats: unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), "
      "statistics "
      "float or double";
  constexpr int64_t kMany = int64_t{1} << 32;
  Expect(Stats(7, 1, 2, 3, 4), kUnknownType);
  Expect(Stats(1, 10, 2, 3, 4), kUnknownType);
  Expect(Stats(1, 1, 2, -3, 4), "onnx_cbp_cuda_channel_stats: a size is negative");
  Expect(Stats(1, 1, kMany, kMany, 4),
         "onnx_cbp_cuda_channel_stats: the tensor has more elements than an int64 can count");
  Expect(Stats(1, 1, kMany, 0, kMany),
         "onnx_cbp_cuda_channel_stats: the tensor has more elements than an int64 can count");
  Expect(onnx_cbp_cuda_running_stats({}, 7, 3, 0.9, 0, nullptr, nullptr, nullptr, nullptr),
         "onnx_cbp_cuda_running_stats: unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), "
         "statistics float or double");
  if (onnx_cbp_cuda_workspace(2, -3, 4) != -1) {
    ++failures;
    std::puts("there is a workspace for a negative size");
  }
  if (failures == 0) std::puts("every error is told");
  return failures == 0 ? 0 : 1;
}
