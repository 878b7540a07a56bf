// Divides a dense convolution into steps, by its shape.
#include "conv_plan.h"

#include <algorithm>

namespace onnx_cbp {
namespace {

// How many numbers a step copies at most, unless a single row needs more: a part of a core's own cache holds them.
constexpr int64_t kCopied = 1 << 17;
// How many windows a step of the weight's gradient has at most, if it takes several samples.
constexpr int64_t kStep = 1 << 7;
// How many tasks are enough for the cores of one machine.
constexpr int64_t kParts = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

ConvPlanner::ConvPlanner(const Windows& windows, bool results) {
  ConvPlan& plan = plan_;
  const WindowAxis* axes = windows.axes;
  plan.windows = windows;
  // Exactly as long as what a row of windows sees. With a stride, every phase has the same number of columns.
  const WindowAxis& columns = axes[2];
  const int64_t of_phase = columns.count + (columns.extent() - 1) / columns.stride;
  plan.row_pitch = results ? of_phase * columns.stride : std::max(columns.padded(), columns.before + columns.size);
  const WindowAxis& lines = axes[1];
  const int64_t copied = windows.channels * axes[0].kernel * plan.row_pitch;
  const int64_t of_row = copied * lines.stride + (results ? 0 : windows.outputs * columns.count);
  const int64_t halo = copied * (lines.extent() - 1);
  plan.rows = std::clamp<int64_t>((kCopied - std::min(halo, kCopied / 2)) / of_row, 1, lines.count);
  plan.bands = CeilDiv(lines.count, plan.rows);
  plan.rows = CeilDiv(lines.count, plan.bands);  // bands of one size, or almost
  plan.bands = CeilDiv(lines.count, plan.rows);
  if (!results && plan.bands == 1 && axes[0].count == 1) {
    const int64_t most = std::max<int64_t>(1, kStep / (plan.rows * columns.count));
    plan.samples = std::clamp<int64_t>(windows.batch, 1, most);
  }
  plan.steps = CeilDiv(windows.batch, plan.samples) * plan.bands * axes[0].count;
  plan.parts = std::clamp<int64_t>(CeilDiv(kParts, CeilDiv(plan.blocks(), 4)), 1, std::max<int64_t>(1, plan.steps));
  plan.plane_pitch = plan.padded_rows() * plan.row_pitch;
  plan.channel_pitch = axes[0].kernel * plan.plane_pitch;
  for (int64_t d = 0; d < axes[0].kernel; ++d) {
    for (int64_t h = 0; h < axes[1].kernel; ++h) {
      for (int64_t w = 0; w < axes[2].kernel; ++w) {
        const int64_t column = w * columns.dilation;
        const int64_t of_row = results ? column % columns.stride * of_phase + column / columns.stride : column;
        offsets_.push_back(d * plan.plane_pitch + h * lines.dilation * plan.row_pitch + of_row);
      }
    }
  }
  if (!results) {
    for (int64_t i = 0; i < std::min(plan.padded_rows(), lines.size) * columns.size; ++i) {
      places_.push_back(i / columns.size * plan.row_pitch + i % columns.size);
    }
  }
  plan.places = places_.data();
  plan.offsets = offsets_.data();
}

}  // namespace onnx_cbp
