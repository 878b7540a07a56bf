// ChannelStatsMerge: the statistics of a batch from those of its parts.
#include <vector>

#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// Merges mean[R, C] and var[R, C] of parts with count[R] elements per channel. A part without elements is not read. If
// all are empty, the results are zeros.
bool ChannelStatsMerge(const ReplicasCall& call, const ChannelStatsMergeArguments& a) {
  const int64_t replicas = call.replicas, channels = call.channels;
  const int64_t* count = a.count.As<int64_t>();
  int64_t total = 0;
  for (int64_t r = 0; r < replicas; ++r) {
    // A sum that overflows int64 is cut off at the largest number, and never becomes negative.
    if (__builtin_add_overflow(total, count[r], &total)) total = INT64_MAX;
  }
  *a.merged_count.As<int64_t>() = total;
  return DispatchStatistics(call.stats_type, [&](auto u) {
    using U = decltype(u);
    const U* means = a.mean.As<U>();
    const U* vars = a.var.As<U>();
    std::vector<double> all_mean(static_cast<size_t>(channels)), all_var(all_mean.size());
    // Part by part, in order: each pass over the parts reads neighbouring channels.
    const auto for_each = [&](auto&& add) {
      for (int64_t r = 0; r < replicas; ++r) {
        if (count[r] == 0) continue;
        const double weight = static_cast<double>(count[r]) / static_cast<double>(total);
        for (size_t c = 0; c < all_mean.size(); ++c) {
          const int64_t i = r * channels + static_cast<int64_t>(c);
          add(c, weight, static_cast<double>(means[i]), static_cast<double>(vars[i]));
        }
      }
    };
    for_each([&](size_t c, double weight, double part, double) { all_mean[c] += weight * part; });
    for_each([&](size_t c, double weight, double part, double spread) {
      const double distance = part - all_mean[c];
      all_var[c] += weight * (spread + distance * distance);
    });
    FromDouble(all_mean, call.stats_type, a.merged_mean.data());
    FromDouble(all_var, call.stats_type, a.merged_var.data());
  });
}

}  // namespace onnx_cbp
