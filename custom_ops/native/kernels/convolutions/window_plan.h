// How a depthwise convolution is computed: in blocks of channels, which are the lanes of vectors.
//
// A step copies the elements of a block, with padding around them, so that the channels' elements at one place become
// neighbours. It does so for some samples, or for a band of one sample. Bands are cut along the lead axis: the first
// axis of space that is longer than one element. Everything depends on the shape alone.
#pragma once

#include <cstdint>
#include <vector>

#include "windows.h"

namespace onnx_cbp {

// How many channels a block has.
constexpr int64_t kWindowLanes = 16;

struct WindowPlan {
  Windows windows;
  int lead = 0;                             // the lead axis, along which bands are cut
  int64_t pitch[Windows::kAxes] = {};       // from a place of the padded data to the next along each axis, in places
  int64_t inner_size = 1, inner_count = 1;  // elements and windows, over the axes after the lead axis
  int64_t rows = 1;                         // windows of a band along the lead axis
  int64_t bands = 1;
  int64_t samples = 1;                         // samples of a step; 1 where there are several bands
  int64_t data_places = 0, window_places = 0;  // places and windows of one sample in a step, with padding
  int64_t steps = 0, steps_per_part = 1;
  const int64_t* places = nullptr;   // where the elements of a band lie among its padded places
  const int64_t* offsets = nullptr;  // from a window's first element to each of its elements, in places

  ONNX_CBP_INLINE int64_t blocks() const { return (windows.results() + kWindowLanes - 1) / kWindowLanes; }
  ONNX_CBP_INLINE int64_t parts() const { return (steps + steps_per_part - 1) / steps_per_part; }
  ONNX_CBP_INLINE int64_t tasks() const { return blocks() * parts(); }
  // How many numbers a task needs memory for.
  ONNX_CBP_INLINE int64_t scratch() const { return samples * (data_places + window_places) * kWindowLanes; }
};

// A plan, with the memory of its tables.
class WindowPlanner {
 public:
  // Neither the batch nor the number of channels may be 0.
  explicit WindowPlanner(const Windows& windows);
  WindowPlanner(const WindowPlanner&) = delete;
  WindowPlanner& operator=(const WindowPlanner&) = delete;

  const WindowPlan& plan() const { return plan_; }

 private:
  WindowPlan plan_;
  std::vector<int64_t> places_, offsets_;
};

}  // namespace onnx_cbp
