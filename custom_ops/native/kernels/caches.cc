#include "caches.h"

#include <fstream>
#include <string>

namespace onnx_cbp {
namespace {

// From Linux, which knows which cores share a cache: sysconf() on some virtual machines says the sum of all.
size_t LargestCache() {
  size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    size_t size = 0;
    char unit = 0;
    if (!(file >> size)) continue;
    file >> unit;
    size *= unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1;
    if (size > largest) largest = size;
  }
  return largest > 0 ? largest : size_t{32} << 20;
}

}  // namespace

bool WritesPastCaches(const Layout& layout, size_t element_size, size_t bytes) {
  static const size_t largest = LargestCache();
  constexpr size_t kLine = 64, kLong = 2048;
  const size_t run = static_cast<size_t>(WalksByRow(layout) ? layout.stride() : layout.inner) * element_size;
  return bytes > 2 * largest && (run % kLine == 0 || run >= kLong);
}

}  // namespace onnx_cbp
