#include "targets.h"

#include <cstdlib>
#include <cstring>

namespace onnx_cbp {
namespace {

#if defined(__x86_64__)
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Target Best() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) {
    return Target::baseline;
  }
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512cd")
             ? Target::avx512
             : Target::avx2;
}
#else
constexpr const char* kNames[] = {"baseline"};

Target Best() { return Target::baseline; }
#endif

Target Chosen() {
  const Target best = Best();
  const char* wanted = std::getenv("ONNX_CBP_TARGET");
  for (int i = 0; wanted != nullptr && i <= static_cast<int>(best); ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return static_cast<Target>(i);
  }
  return best;
}

}  // namespace

Target ActiveTarget() {
  static const Target target = Chosen();
  return target;
}

const char* ActiveTargetName() { return kNames[static_cast<int>(ActiveTarget())]; }

}  // namespace onnx_cbp
