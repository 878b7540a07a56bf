// Sums in a fixed number of lanes: the order of additions is written down, so the compiler may use
// vectors of any width and the result stays the same bits.
#pragma once

#include <cstdint>

namespace onnx_cbp {

constexpr int kLanes = 16;

struct Lanes {
  double value[kLanes] = {};

  double Sum() const {
    double halves[kLanes];
    for (int i = 0; i < kLanes; ++i) halves[i] = value[i];
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) halves[i] += halves[i + width];
    }
    return halves[0];
  }
};

// Calls add(lane, index) for every index in [0, count).
template <typename F>
inline void ForEachLane(int64_t count, F&& add) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add(lane, i + lane);
  }
  for (int lane = 0; i + lane < count; ++lane) add(lane, i + lane);
}

}  // namespace onnx_cbp
