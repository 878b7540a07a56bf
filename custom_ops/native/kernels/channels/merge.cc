// Merges the partial results of a channel.
#include "merge.h"

#include <vector>

namespace onnx_cbp {
namespace {

// Chan's merge. The mean is merged as a weighted sum, so an infinite mean stays infinite.
Moments Merge(const Moments& a, double count_a, const Moments& b, double count_b) {
  const double count = count_a + count_b;
  const double delta = b.mean - a.mean;
  return {a.mean * (count_a / count) + b.mean * (count_b / count),
          a.m2 + b.m2 + delta * delta * (count_a * (count_b / count))};
}

}  // namespace

void MergeMoments(const Partition& partition, const Layout& layout, const Moments* partial, int64_t channel_begin,
                  int64_t channel_end, double* mean, double* var) {
  std::vector<Moments> merged(static_cast<size_t>(channel_end - channel_begin));
  double count = 0.0;
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Moments* next = partial + part * layout.channels + channel_begin;
    const double next_count = static_cast<double>(partition.count(part));
    for (size_t c = 0; c < merged.size(); ++c) {
      merged[c] = part == 0 ? next[c] : Merge(merged[c], count, next[c], next_count);
    }
    count += next_count;
  }
  for (size_t c = 0; c < merged.size(); ++c) {
    mean[channel_begin + static_cast<int64_t>(c)] = merged[c].mean;
    var[channel_begin + static_cast<int64_t>(c)] = layout.empty() ? 0.0 : merged[c].m2 / count;
  }
}

void MergeSums(const Partition& partition, const Layout& layout, const Sums* partial, const double* inv_std,
               int64_t channel_begin, int64_t channel_end, double* scale_grad, double* bias_grad) {
  std::vector<Sums> total(static_cast<size_t>(channel_end - channel_begin), Sums{0.0, 0.0});
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Sums* next = partial + part * layout.channels + channel_begin;
    for (size_t c = 0; c < total.size(); ++c) {
      total[c].product += next[c].product;
      total[c].gradient += next[c].gradient;
    }
  }
  for (size_t c = 0; c < total.size(); ++c) {
    const int64_t channel = channel_begin + static_cast<int64_t>(c);
    // Without elements the sum is 0, even if inv_std is not finite.
    scale_grad[channel] = layout.empty() ? 0.0 : total[c].product * inv_std[channel];
    bias_grad[channel] = total[c].gradient;
  }
}

}  // namespace onnx_cbp
