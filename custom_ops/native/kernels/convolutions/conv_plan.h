// How a dense convolution (of one group) is computed. A step works on some samples, or on a band of rows of one sample.
// It copies the data with padding around it. It computes 16 output channels at a time, which are neighbours in vectors.
// Everything depends on the shape alone.
#pragma once

#include <cstdint>
#include <vector>

#include "window_plan.h"

namespace onnx_cbp {

// How many output channels are computed together, whatever the width of the vectors.
constexpr int64_t kConvLanes = kWindowLanes;

struct ConvPlan {
  Windows windows;
  int64_t samples = 1;               // samples of a step; 1 where a sample has several bands
  int64_t rows = 1;                  // rows of windows in a band
  int64_t bands = 1;                 // bands in a plane of windows
  int64_t steps = 0;                 // steps for all samples
  int64_t parts = 1;                 // parts into which the weight's gradient divides the steps
  int64_t row_pitch = 0;             // from a padded row of a band to the next, in elements
  int64_t plane_pitch = 0;           // from a padded plane to the next; one for each element of the kernel's first axis
  int64_t channel_pitch = 0;         // from a channel to the next: all its planes
  const int64_t* places = nullptr;   // where the data's elements lie in the rows of a band
  const int64_t* offsets = nullptr;  // from a window's first element to each of its elements

  ONNX_CBP_INLINE int64_t outputs() const { return windows.outputs; }
  ONNX_CBP_INLINE int64_t taps() const { return windows.kernel(); }
  ONNX_CBP_INLINE int64_t blocks() const { return (outputs() + kConvLanes - 1) / kConvLanes; }
  ONNX_CBP_INLINE int64_t channel_blocks() const { return (windows.channels + kConvLanes - 1) / kConvLanes; }
  // How many sums one block of outputs has for the weight's gradient: [block of channels][element of the
  // window][channel of the block][output of the block].
  ONNX_CBP_INLINE int64_t sums_of_block() const { return channel_blocks() * taps() * kConvLanes * kConvLanes; }
  // How many padded rows a band has in each plane.
  ONNX_CBP_INLINE int64_t padded_rows() const { return (rows - 1) * windows.axes[1].stride + windows.axes[1].extent(); }
};

// What a step works on: some samples from `sample` on, one plane of windows, and some rows from `row` on.
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

// A plan, with the memory of its tables.
class ConvPlanner {
 public:
  // For results: rows are padded. With a stride, their columns are in the order of phases (see CopyRow).
  static ConvPlanner OfResults(const Windows& windows) { return {windows, true}; }
  // For the gradient of the weight: data and gradients are copied to vectors of channels.
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
