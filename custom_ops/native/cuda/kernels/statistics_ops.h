// Ops that work only on statistics: each channel has its own thread (ForEachChannel).
#pragma once

#include <cstdint>

#include "../../kernels/channels/running_stats.h"
#include "../elements/statistics.h"

namespace onnx_cbp::cuda {

// Writes a count if there are no channels whose threads could do so.
struct SetCount {
  int64_t* count;
  int64_t elements;
  ONNX_CBP_DEVICE void operator()(int64_t) const { *count = elements; }
};

// ChannelStatsMerge: the statistics of a batch from those of its replicas, mean and var [replicas, channels].
struct MergeStats {
  Statistics mean, var;
  int64_t replicas, channels;
  const int64_t* count;
  StatisticsOutput merged_mean, merged_var;
  int64_t* merged_count;

  ONNX_CBP_DEVICE int64_t Total() const {
    int64_t total = 0;
    for (int64_t r = 0; r < replicas; ++r) {
      // A sum that overflows int64 is cut off at the largest number, and never becomes negative.
      total = total > INT64_MAX - count[r] ? INT64_MAX : total + count[r];
    }
    return total;
  }

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    const int64_t total = Total();
    if (channel == 0) *merged_count = total;
    if (channel >= channels) return;  // there are no channels: only the count is written
    double all_mean = 0.0, all_var = 0.0;
    for (int64_t r = 0; r < replicas; ++r) {
      if (count[r] == 0) continue;  // its statistics mean nothing, and may be NaN
      const double weight = static_cast<double>(count[r]) / static_cast<double>(total);
      all_mean += weight * mean[r * channels + channel];
    }
    for (int64_t r = 0; r < replicas; ++r) {
      if (count[r] == 0) continue;
      const double weight = static_cast<double>(count[r]) / static_cast<double>(total);
      const double distance = mean[r * channels + channel] - all_mean;
      all_var += weight * (var[r * channels + channel] + distance * distance);
    }
    merged_mean.Set(channel, all_mean);
    merged_var.Set(channel, all_var);
  }
};

// RunningStats.
struct UpdateRunning {
  Statistics running, batch;
  const int64_t* count;
  RunningRule rule;
  StatisticsOutput updated;

  ONNX_CBP_DEVICE void operator()(int64_t channel) const {
    updated.Set(channel, rule.Updated(running[channel], batch[channel], static_cast<double>(*count)));
  }
};

}  // namespace onnx_cbp::cuda
