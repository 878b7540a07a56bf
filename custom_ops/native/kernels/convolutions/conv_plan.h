// How a convolution of one group is worked on: for some samples, or for a band of the rows of one, the data is copied
// to where padding surrounds it, and results are made of 16 output channels at a time, which are neighbours in vectors.
// Everything depends on the shape alone.
#pragma once

#include <cstdint>
#include <vector>

#include "window_plan.h"

namespace onnx_cbp {

// Output channels that are computed together, whatever the width of the vectors.
constexpr int64_t kConvLanes = kWindowLanes;

struct ConvPlan {
  Windows windows;
  int64_t samples = 1;               // of a step; 1 where a sample is several bands
  int64_t rows = 1;                  // of windows in a band
  int64_t bands = 1;                 // of a plane of windows
  int64_t steps = 0;                 // of all samples
  int64_t parts = 1;                 // that the steps, or the blocks of outputs, are divided into
  int64_t row_pitch = 0;             // of the padded rows of a band, in elements
  int64_t plane_pitch = 0;           // of its planes, of which it has one for each element of the kernel's first axis
  int64_t channel_pitch = 0;         // all planes
  const int64_t* places = nullptr;   // of the data's elements in the rows of a band, from the first one's
  const int64_t* offsets = nullptr;  // of a window's elements from its first one

  ONNX_CBP_INLINE int64_t outputs() const { return windows.outputs; }
  ONNX_CBP_INLINE int64_t taps() const { return windows.kernel(); }
  ONNX_CBP_INLINE int64_t blocks() const { return (outputs() + kConvLanes - 1) / kConvLanes; }
  ONNX_CBP_INLINE int64_t channel_blocks() const { return (windows.channels + kConvLanes - 1) / kConvLanes; }
  // Of the weight's gradient, the sums of one block of outputs: [block of channels][element of the window][channel of
  // the block][output of the block].
  ONNX_CBP_INLINE int64_t sums_of_block() const { return channel_blocks() * taps() * kConvLanes * kConvLanes; }
  // Of the padded data, how many rows a band has of each plane.
  ONNX_CBP_INLINE int64_t padded_rows() const { return (rows - 1) * windows.axes[1].stride + windows.axes[1].extent(); }
};

// A step's place: the first of its samples, the plane of windows, and the rows of it.
struct ConvStep {
  int64_t sample, samples, plane, row, rows;

  ONNX_CBP_INLINE ConvStep(const ConvPlan& plan, int64_t step) {
    const int64_t planes = plan.windows.axes[0].count;
    const int64_t of_sample = plan.bands * planes;
    sample = step / of_sample * plan.samples;
    samples = plan.windows.batch - sample < plan.samples ? plan.windows.batch - sample : plan.samples;
    plane = step % of_sample / plan.bands;
    row = step % plan.bands * plan.rows;
    const int64_t left = plan.windows.axes[1].count - row;
    rows = left < plan.rows ? left : plan.rows;
  }
};

// A plan with its table.
class ConvPlanner {
 public:
  // For results: rows are padded, and with a stride their columns lie phase by phase.
  static ConvPlanner OfResults(const Windows& windows) { return {windows, true}; }
  // For the gradient of the weight: data and gradients become vectors of channels.
  static ConvPlanner OfWeight(const Windows& windows) { return {windows, false}; }
  ConvPlanner(const ConvPlanner&) = delete;
  ConvPlanner& operator=(const ConvPlanner&) = delete;

  const ConvPlan& plan() const { return plan_; }

 private:
  ConvPlanner(const Windows& windows, bool results);

  ConvPlan plan_;
  std::vector<int64_t> places_, offsets_;
};

}  // namespace onnx_cbp
