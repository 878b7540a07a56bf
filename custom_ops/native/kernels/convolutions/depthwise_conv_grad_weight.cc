// The gradient of a depthwise convolution's weight.
#include <algorithm>
#include <memory>
#include <vector>

#include "../element_types.h"
#include "../loops/convolutions/window_sums.h"
#include "../op.h"
#include "window_plan.h"

namespace onnx_cbp {

// dw[c * m + j, 0, k] = sum over n and i of dy[n, c * m + j, i] * x[n, c, i * stride + k * dilation - before], where m
// is the number of results per channel.
bool DepthwiseConvGradWeight(const DepthwiseWindowsCall& call, const DepthwiseConvGradWeightArguments& a) {
  const Windows& windows = call.windows;
  return DispatchData(call.x_type, [&](auto t) {
    using T = decltype(t);
    using V = ComputeType<T, float>;
    T* out = a.dw.As<T>();
    const int64_t kernel = windows.kernel(), results = windows.results();
    if (windows.batch == 0 || results == 0) {
      for (int64_t i = 0; i < results * kernel; ++i) Store(V{0}, out + i);
      return;
    }
    const WindowPlanner planner(windows);
    const WindowPlan& plan = planner.plan();
    const int64_t of_task = kernel * kWindowLanes;
    std::vector<double> partial(static_cast<size_t>(plan.tasks() * of_task));
    call.executor.ForEach(plan.tasks(), [&](int64_t task) {
      const std::unique_ptr<V[]> scratch(new V[static_cast<size_t>(plan.scratch())]);
      WindowSums(plan, task, a.x.As<T>(), a.dy.As<T>(), scratch.get(), partial.data() + task * of_task);
    });
    for (int64_t o = 0; o < results; ++o) {
      for (int64_t k = 0; k < kernel; ++k) {
        double sum = 0.0;
        for (int64_t part = 0; part < plan.parts(); ++part) {
          const int64_t task = part * plan.blocks() + o / kWindowLanes;
          sum += partial[static_cast<size_t>(task * of_task + k * kWindowLanes + o % kWindowLanes)];
        }
        Store(sum, out + o * kernel + k);
      }
    }
  });
}

}  // namespace onnx_cbp
