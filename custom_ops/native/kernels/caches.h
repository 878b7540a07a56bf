// What the caches of this machine hold.
#pragma once

#include <cstddef>

namespace onnx_cbp {

// Whether so many bytes are more than the largest cache that a thread can use holds.
bool ExceedsCaches(size_t bytes);

}  // namespace onnx_cbp
