// Finishes a channel: from its sums, finish(channel, merged) writes its outputs, and returns the coefficients with
// which the second pass computes its elements. Values are in double until they are written.
#pragma once

#include <cmath>

#include "../../kernels/channels/running_stats.h"
#include "../../kernels/loops/channels/coefficients.h"
#include "accumulate.h"
#include "statistics.h"

namespace onnx_cbp::cuda {

// Instead of coefficients, if only the sums are wanted.
struct NoCoefficients {};

// The outputs from a channel's moments. Outputs that are null are not written.
struct StatsOutputs {
  StatisticsOutput mean, var, inv_std;
  int64_t* count = nullptr;
  Statistics running_mean, running_var;
  RunningRule mean_rule, var_rule;
  StatisticsOutput updated_mean, updated_var;
  double epsilon = 0.0;

  ONNX_CBP_DEVICE double InvStd(double variance) const { return 1.0 / sqrt(variance + epsilon); }

  // Writes the outputs, and returns the variance.
  ONNX_CBP_DEVICE double Write(int64_t channel, const MergedMoments& merged) const {
    if (count != nullptr && channel == 0) *count = static_cast<int64_t>(merged.count);
    const double variance = merged.count == 0.0 ? 0.0 : merged.m2 / merged.count;
    mean.Set(channel, merged.mean);
    var.Set(channel, variance);
    inv_std.Set(channel, InvStd(variance));
    if (updated_mean.values != nullptr) {
      // Rounded to the statistics type, as if they were passed from one op to the other.
      const double mean_kept = RoundedTo(updated_mean.type, merged.mean);
      const double var_kept = RoundedTo(updated_mean.type, variance);
      updated_mean.Set(channel, mean_rule.Updated(running_mean[channel], mean_kept, merged.count));
      updated_var.Set(channel, var_rule.Updated(running_var[channel], var_kept, merged.count));
    }
    return variance;
  }
};

// ChannelStats.
struct FinishStats {
  using Merged = MergedMoments;
  using Coefficients = NoCoefficients;
  StatsOutputs outputs;

  ONNX_CBP_DEVICE NoCoefficients operator()(int64_t channel, const MergedMoments& merged) const {
    outputs.Write(channel, merged);
    return {};
  }
};

// For the forward passes.
template <typename V>
struct FinishTrain {
  using Merged = MergedMoments;
  using Coefficients = NormalizeCoefficients<V>;
  StatsOutputs outputs;
  Statistics scale, b;
  // The coefficients of y, for a gradient that computes y again; null if nothing keeps them.
  StatisticsOutput slope, offset;

  ONNX_CBP_DEVICE Coefficients operator()(int64_t channel, const MergedMoments& merged) const {
    const double inv_std = outputs.InvStd(outputs.Write(channel, merged));
    if (slope.values == nullptr) {
      return MakeNormalizeCoefficients<V>(merged.mean, inv_std, scale[channel], b[channel]);
    }
    return slope.type == kDouble ? KeepIn<double>(channel, merged.mean, inv_std)
                                 : KeepIn<float>(channel, merged.mean, inv_std);
  }

 private:
  // Writes slope and offset, and returns coefficients with the same values, as these outputs hold them in their type U.
  template <typename U>
  ONNX_CBP_DEVICE Coefficients KeepIn(int64_t channel, double mean, double inv_std) const {
    const NormalizeCoefficients<U> kept = MakeNormalizeCoefficients<U>(mean, inv_std, scale[channel], b[channel]);
    slope.Set(channel, static_cast<double>(kept.slope));
    offset.Set(channel, static_cast<double>(kept.offset));
    return {static_cast<V>(kept.center), static_cast<V>(kept.slope), static_cast<V>(kept.offset)};
  }
};

// The sum of dy * (x - mean). merged.product was computed with the mean rounded to V; this corrects for it.
template <typename V>
ONNX_CBP_DEVICE double WithoutRounding(const MergedSums& merged, double mean) {
  const double lost = mean - static_cast<double>(static_cast<V>(mean));
  const bool counts = lost != 0.0 && lost - lost == 0.0;
  return counts ? merged.product - lost * merged.gradient : merged.product;
}

// For ChannelBackpropStats, and for the first half of the backward passes.
template <typename V>
struct FinishSums {
  using Merged = MergedSums;
  using Coefficients = BackpropCoefficients<V>;
  Statistics scale, mean, inv_std;  // scale is null if no coefficients are wanted
  StatisticsOutput scale_grad, bias_grad;

  ONNX_CBP_DEVICE Coefficients operator()(int64_t channel, const MergedSums& merged) const {
    const double s = inv_std[channel];
    // Without elements the sum is 0, even if inv_std is not finite.
    const double of_scale = merged.count == 0.0 ? 0.0 : WithoutRounding<V>(merged, mean[channel]) * s;
    scale_grad.Set(channel, of_scale);
    bias_grad.Set(channel, merged.gradient);
    if (scale.values == nullptr) return {};
    return MakeBackpropCoefficients<V>(scale[channel], mean[channel], s, of_scale, merged.gradient, merged.count);
  }
};

// For ChannelBackpropStatsGrad. Its tensors dx and d_dy are normalisations of dy and of x, each with its own
// coefficients.
template <typename V>
struct FinishStatsGrad {
  using Merged = MergedSums;
  using Coefficients = NoCoefficients;
  Statistics mean, inv_std, d_scale_grad, d_bias_grad;
  StatisticsOutput d_mean, d_inv_std;
  NormalizeCoefficients<V>* of_dy = nullptr;
  NormalizeCoefficients<V>* of_x = nullptr;

  ONNX_CBP_DEVICE NoCoefficients operator()(int64_t channel, const MergedSums& merged) const {
    const double a = d_scale_grad[channel], s = inv_std[channel];
    d_inv_std.Set(channel, WithoutRounding<V>(merged, mean[channel]) * a);
    d_mean.Set(channel, merged.gradient * (-a * s));
    const V slope = static_cast<V>(a * s);
    of_dy[channel] = {V(0), slope, V(0)};
    of_x[channel] = MakeNormalizeCoefficients<V>(mean[channel], s, a, d_bias_grad[channel]);
    return {};
  }
};

}  // namespace onnx_cbp::cuda
