// How much data the processor's caches hold.
#pragma once

#include <cstddef>

#include "partition.h"

namespace onnx_cbp {

// Whether the largest cache holds this many bytes.
bool FitsCaches(size_t bytes);

// Whether to write past the caches. `bytes` is all that the kernel moves, including a tensor of this layout and element
// size that it writes. Lines that are written past the caches need not be read first. This pays if not everything stays
// in the largest cache anyway: with a cache of 32 MB, it is 1.1 to 1.7 times as fast with 38 MB, and 0.4 to 1.2 times
// with 19 MB. It also needs runs of memory that consist of whole cache lines, or are long: neighbouring planes are
// written in one run, rows are not.
bool WritesPastCaches(const Layout& layout, size_t element_size, size_t bytes);

}  // namespace onnx_cbp
