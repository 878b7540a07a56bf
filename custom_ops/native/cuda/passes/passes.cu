// The size of the workspace.
#include <algorithm>

#include "passes.h"

namespace onnx_cbp::cuda {

int64_t WorkspaceBytes(const Layout& layout) {
  // For each channel coefficients, of which ChannelBackpropStatsGrad has the most, in double; then the partial sums,
  // aligned.
  constexpr int64_t kCoefficients = 2 * sizeof(NormalizeCoefficients<double>), kAlignment = 16;
  static_assert(kCoefficients >= static_cast<int64_t>(sizeof(BackpropCoefficients<double>)), "and of all others");
  constexpr int64_t kPartial = static_cast<int64_t>(std::max(sizeof(Moments), sizeof(Sums)));
  return kCoefficients * layout.channels + kAlignment + kPartial * MostPartials(layout);
}

}  // namespace onnx_cbp::cuda
