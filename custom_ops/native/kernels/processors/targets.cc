// Finds the best target of this machine.
#include "targets.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>

#include "x86_levels.h"
#endif

namespace onnx_cbp {
namespace {

#if defined(__x86_64__)
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Cpuid AskCpu() {
  Cpuid cpu{};
  unsigned int a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) cpu.leaf_1_ecx = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) cpu.leaf_7_ebx = b;
  if (__get_cpuid(0x80000001, &a, &b, &c, &d) != 0) cpu.extended_1_ecx = c;
  // These also ask the operating system.
  __builtin_cpu_init();
  cpu.keeps_avx = __builtin_cpu_supports("avx2") != 0;
  cpu.keeps_avx512 = __builtin_cpu_supports("avx512f") != 0;
  return cpu;
}

Target Best() {
  const int level = LevelOf(AskCpu());
  return level == 4 ? Target::avx512 : level == 3 ? Target::avx2 : Target::baseline;
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
