// Whether to write past the caches.
#pragma once

#include <cstddef>

#include "partition.h"

namespace onnx_cbp {

// For a kernel that moves so many bytes, among them a tensor of this layout and element size that it writes. Past the
// caches, what is written need not be read first; it pays where the tensors are more than twice the largest cache
// (until then some of it is still found there: 0.75 times as fast with 38 MB and a cache of 32 MB, 1.4 times with
// 100 MB) and where what is written in one go begins and ends with whole cache lines, or is long.
bool WritesPastCaches(const Layout& layout, size_t element_size, size_t bytes);

}  // namespace onnx_cbp
