// Converts per-channel vectors from the statistics type to double and back. They are short, so results computed from
// them are rounded once, at the end.
#pragma once

#include <cstdint>
#include <vector>

#include "../element_types.h"

namespace onnx_cbp {

// The vector in double; empty if the type is unknown.
inline std::vector<double> ToDouble(int type, const void* vector, int64_t size) {
  std::vector<double> wide;
  DispatchStatistics(type, [&](auto u) {
    const auto* values = static_cast<const decltype(u)*>(vector);
    wide.assign(values, values + size);
  });
  return wide;
}

// Rounds a vector to the type; a null output is skipped. False if the type is unknown.
inline bool FromDouble(const std::vector<double>& wide, int type, void* vector) {
  return DispatchStatistics(type, [&](auto u) {
    auto* values = static_cast<decltype(u)*>(vector);
    for (size_t i = 0; values != nullptr && i < wide.size(); ++i) values[i] = static_cast<decltype(u)>(wide[i]);
  });
}

}  // namespace onnx_cbp
