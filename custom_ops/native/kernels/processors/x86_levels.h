// The levels of x86-64, as compilers define them: a processor has a level if it has all instructions of that level.
#pragma once

#include <cstdint>

namespace onnx_cbp {

// What cpuid answers, and whether the operating system saves the registers of AVX and of AVX-512 (xgetbv).
struct Cpuid {
  uint32_t leaf_1_ecx, leaf_7_ebx, extended_1_ecx;
  bool keeps_avx, keeps_avx512;
};

constexpr uint32_t Bits() { return 0; }
template <typename... Others>
constexpr uint32_t Bits(int bit, Others... others) {
  return uint32_t{1} << bit | Bits(others...);
}

// 4 for x86-64-v4, 3 for x86-64-v3, 1 for anything less.
inline int LevelOf(const Cpuid& cpu) {
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C
  constexpr uint32_t kLeaf1 = Bits(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29);
  constexpr uint32_t kLeaf7 = Bits(3, 5, 8);              // BMI1, AVX2, BMI2
  constexpr uint32_t kExtended = Bits(0, 5);              // LAHF, LZCNT
  constexpr uint32_t kAvx512 = Bits(16, 17, 28, 30, 31);  // F, DQ, CD, BW, VL
  const auto all = [](uint32_t has, uint32_t needed) { return (has & needed) == needed; };
  if (!cpu.keeps_avx || !all(cpu.leaf_1_ecx, kLeaf1) || !all(cpu.leaf_7_ebx, kLeaf7) ||
      !all(cpu.extended_1_ecx, kExtended)) {
    return 1;
  }
  return cpu.keeps_avx512 && all(cpu.leaf_7_ebx, kAvx512) ? 4 : 3;
}

}  // namespace onnx_cbp
