#include "caches.h"

#include <cstdlib>
#include <fstream>
#include <string>

namespace onnx_cbp {
namespace {

// From Linux, which knows which cores share a cache: sysconf() on some virtual machines says the sum of all.
size_t LargestCache() {
  if (const char* bytes = std::getenv("ONNX_CBP_LARGEST_CACHE")) {
    char* end = nullptr;
    const size_t size = std::strtoull(bytes, &end, 10);
    if (end != bytes && *end == '\0') return size;  // anything else is no number of bytes
  }
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

bool FitsCaches(size_t bytes) {
  static const size_t largest = LargestCache();
  return bytes <= largest;
}

bool WritesPastCaches(const Layout& layout, size_t element_size, size_t bytes) {
  if (FitsCaches(bytes)) return false;
  if (!WalksByRow(layout)) return true;
  constexpr size_t kLine = 64, kLong = 2048;
  const size_t row = static_cast<size_t>(layout.stride()) * element_size;
  return row % kLine == 0 || row >= kLong;
}

}  // namespace onnx_cbp
