#include "channel_stats_merge.h"

#include <vector>

#include "vectors.h"

namespace onnx_cbp {

bool ChannelStatsMerge(int stats_type, int64_t replicas, int64_t channels, const void* mean, const void* var,
                       const int64_t* count, void* merged_mean, void* merged_var, int64_t* merged_count) {
  int64_t total = 0;
  for (int64_t r = 0; r < replicas; ++r) {
    if (__builtin_add_overflow(total, count[r], &total)) total = INT64_MAX;  // not to be had; but no negative count
  }
  *merged_count = total;
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* means = static_cast<const U*>(mean);
    const U* vars = static_cast<const U*>(var);
    std::vector<double> all_mean(static_cast<size_t>(channels)), all_var(all_mean.size());
    // Part by part, in their order; each pass over the parts reads neighbouring channels.
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
    FromDouble(all_mean, stats_type, merged_mean);
    FromDouble(all_var, stats_type, merged_var);
  });
}

}  // namespace onnx_cbp
