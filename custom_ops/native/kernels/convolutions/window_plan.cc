// Divides a depthwise convolution into steps and parts, by its shape.
#include "window_plan.h"

#include <algorithm>

namespace onnx_cbp {
namespace {

// How many places of padded data a band has at most, unless a single row needs more. In float a place takes 64 bytes: a
// part of a core's own cache holds them.
constexpr int64_t kBand = 1 << 12;
// How many windows a step has at most, if it takes several samples.
constexpr int64_t kStep = 1 << 7;
// How many windows make a part worth a task, and how many tasks are enough for the cores of one machine.
constexpr int64_t kPart = 1 << 12, kTasks = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WindowPlanner::WindowPlanner(const Windows& windows) {
  WindowPlan& plan = plan_;
  plan.windows = windows;
  const WindowAxis* axes = windows.axes;
  while (plan.lead + 1 < Windows::kAxes && axes[plan.lead].size == 1 && axes[plan.lead].padded() == 1) ++plan.lead;
  int64_t inner_places = 1;
  for (int a = Windows::kAxes; a-- > 0;) {
    if (a == plan.lead) inner_places = a + 1 < Windows::kAxes ? plan.pitch[a + 1] * axes[a + 1].padded() : 1;
    plan.pitch[a] = a + 1 < Windows::kAxes ? plan.pitch[a + 1] * axes[a + 1].padded() : 1;
    if (a > plan.lead) {
      plan.inner_size *= axes[a].size;
      plan.inner_count *= axes[a].count;
    }
  }
  const WindowAxis& lead = axes[plan.lead];
  const int64_t indices = std::max<int64_t>(1, kBand / inner_places);
  plan.rows = std::min(lead.count, std::max<int64_t>(1, (indices - lead.extent()) / lead.stride + 1));
  plan.bands = CeilDiv(lead.count, plan.rows);
  const int64_t indices_of_band = (plan.rows - 1) * lead.stride + lead.extent();
  plan.data_places = indices_of_band * inner_places;
  plan.window_places = plan.rows * plan.inner_count;
  if (plan.bands == 1) {
    plan.samples = std::clamp<int64_t>(kStep / plan.window_places, 1, std::max<int64_t>(1, windows.batch));
  }
  plan.steps = CeilDiv(windows.batch, plan.samples) * plan.bands;
  const int64_t worth = CeilDiv(kPart, plan.samples * plan.window_places);
  plan.steps_per_part = std::max(worth, CeilDiv(plan.steps, CeilDiv(kTasks, plan.blocks())));

  places_.resize(static_cast<size_t>(std::min(indices_of_band, lead.size) * plan.inner_size));
  for (size_t i = 0; i < places_.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i), place = 0;
    for (int a = Windows::kAxes; a-- > plan.lead + 1;) {
      place += (rest % axes[a].size + axes[a].before) * plan.pitch[a];
      rest /= axes[a].size;
    }
    places_[i] = place + rest * plan.pitch[plan.lead];
  }
  for (int64_t d = 0; d < axes[0].kernel; ++d) {
    for (int64_t h = 0; h < axes[1].kernel; ++h) {
      for (int64_t w = 0; w < axes[2].kernel; ++w) {
        offsets_.push_back(d * axes[0].dilation * plan.pitch[0] + h * axes[1].dilation * plan.pitch[1] +
                           w * axes[2].dilation * plan.pitch[2]);
      }
    }
  }
  plan.places = places_.data();
  plan.offsets = offsets_.data();
}

}  // namespace onnx_cbp
