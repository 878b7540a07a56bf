// Asks the operating system for the size of the largest cache.
#include "caches.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace onnx_cbp {
namespace {

// How much of the last cache one thread gets at most, on any processor. A virtual machine with a few cores reports the
// cache of the whole socket, most of which its neighbours use. On 2 cores that report 260 MB, BatchNormGrad of
// ResNet-50's shapes is 1.2 to 1.5 times as fast if it counts on 32 MB.
constexpr size_t kMostForOne = size_t{16} << 20;

// How many processors are in a list such as "0-1,4".
size_t InList(std::istream& list) {
  size_t count = 0;
  for (std::string range; std::getline(list, range, ',');) {
    unsigned long first = 0, last = 0;
    const int read = std::sscanf(range.c_str(), "%lu-%lu", &first, &last);
    count += read == 2 && last >= first ? last - first + 1 : read > 0 ? 1 : 0;
  }
  return count;
}

// Reads it from Linux, which knows which cores share a cache. On some virtual machines sysconf() reports the sum of
// all.
size_t LargestCache() {
  if (const char* bytes = std::getenv("ONNX_CBP_LARGEST_CACHE")) {
    char* end = nullptr;
    const size_t size = std::strtoull(bytes, &end, 10);
    if (end != bytes && *end == '\0') return size;  // any other text is ignored
  }
  size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index);
    std::ifstream file(folder + "/size"), sharing(folder + "/shared_cpu_list");
    size_t size = 0;
    char unit = 0;
    if (!(file >> size)) continue;
    file >> unit;
    size *= unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1;
    if (const size_t processors = InList(sharing)) size = std::min(size, processors * kMostForOne);
    largest = std::max(largest, size);
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
