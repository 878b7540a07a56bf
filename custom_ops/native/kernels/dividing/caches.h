// What the processor's caches hold.
#pragma once

#include <cstddef>

#include "partition.h"

namespace onnx_cbp {

// Whether the largest cache holds so many bytes.
bool FitsCaches(size_t bytes);

// Whether to write past the caches, for a kernel that moves so many bytes, among them a tensor of this layout and
// element size that it writes. What is written past the caches need not be read first. That pays where not all of it
// stays in the largest cache anyway (1.1 to 1.7 times as fast with 38 MB and a cache of 32 MB, 0.4 to 1.2 times with 19
// MB), and where what is written in one go begins and ends with whole cache lines, or is long. Neighbouring planes are
// written in one go, rows are not.
bool WritesPastCaches(const Layout& layout, size_t element_size, size_t bytes);

}  // namespace onnx_cbp
