#include "passes.h"

namespace onnx_cbp::cuda {

int64_t WorkspaceBytes(const Layout& layout) {
  // Of a channel, coefficients are at most those of ChannelBackpropStatsGrad in double, and the partial sums behind
  // them are aligned.
  constexpr int64_t kCoefficients = 2 * sizeof(NormalizeCoefficients<double>), kAlignment = 16;
  static_assert(kCoefficients >= static_cast<int64_t>(sizeof(BackpropCoefficients<double>)), "and of all others");
  return kCoefficients * layout.channels + kAlignment + PartialBytes(layout);
}

}  // namespace onnx_cbp::cuda
