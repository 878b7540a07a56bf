// How the windows of a depthwise convolution are worked on: by blocks of channels, which are the lanes of vectors.
//
// The elements of a block are copied, so that what its channels have at one place become neighbours, with the padding
// around them. That is done step by step: for a few samples, or for a band of one sample along the first axis of space
// that is longer than one element. Everything depends on the shape alone.
#pragma once

#include <cstdint>
#include <vector>

#include "windows.h"

namespace onnx_cbp {

// Channels of a block.
constexpr int64_t kWindowLanes = 16;

struct WindowPlan {
  Windows windows;
  int lead = 0;                             // the axis that bands are cut from
  int64_t pitch[Windows::kAxes] = {};       // from place to place of the padded data, in places
  int64_t inner_size = 1, inner_count = 1;  // of the axes behind the lead: elements of the data, and windows
  int64_t rows = 1;                         // windows of a band along the lead
  int64_t bands = 1;
  int64_t samples = 1;                         // of a step; 1 where there are several bands
  int64_t data_places = 0, window_places = 0;  // of one sample in a step, padding counted
  int64_t steps = 0, steps_per_part = 1;
  const int64_t* places = nullptr;   // of a band's elements, among its padded ones
  const int64_t* offsets = nullptr;  // of a window's elements from its first one, in places

  ONNX_CBP_INLINE int64_t blocks() const { return (windows.results() + kWindowLanes - 1) / kWindowLanes; }
  ONNX_CBP_INLINE int64_t parts() const { return (steps + steps_per_part - 1) / steps_per_part; }
  ONNX_CBP_INLINE int64_t tasks() const { return blocks() * parts(); }
  // Numbers that a task needs room for.
  ONNX_CBP_INLINE int64_t scratch() const { return samples * (data_places + window_places) * kWindowLanes; }
};

// A plan with its tables.
class WindowPlanner {
 public:
  // The batch and the channels are not 0.
  explicit WindowPlanner(const Windows& windows);
  WindowPlanner(const WindowPlanner&) = delete;
  WindowPlanner& operator=(const WindowPlanner&) = delete;

  const WindowPlan& plan() const { return plan_; }

 private:
  WindowPlan plan_;
  std::vector<int64_t> places_, offsets_;
};

}  // namespace onnx_cbp
