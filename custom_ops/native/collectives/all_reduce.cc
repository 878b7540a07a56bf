#include "all_reduce.h"

#include <algorithm>

#include "../kernels/element_types.h"
#include "messages.h"

namespace onnx_cbp {
namespace {

// Reduces what `pack` writes into a message of type M, and gives it to `unpack`, with what each element is to be
// divided by.
template <typename M, typename Pack, typename Unpack>
void Reduce(const Collective& collective, int type, int64_t elements, bool mean, Pack pack, Unpack unpack) {
  thread_local MessageBuffer buffer;
  M* message = buffer.Reserve<M>(static_cast<size_t>(elements));
  M* payload = message + ONNX_CBP_MESSAGE_HEADER;
  pack(payload);
  const int64_t replicas = Communicate([&] { return collective.AllReduce(type, elements, message); }, buffer);
  unpack(payload, mean ? static_cast<double>(replicas) : 1.0);
  buffer.Trim();
}

// Sums divided, in double, and rounded once.
template <typename M, typename U>
void Divide(const M* sums, int64_t elements, double divisor, U* out) {
  if (divisor == 1.0) {
    std::transform(sums, sums + elements, out, [](M sum) { return static_cast<U>(sum); });
  } else {
    std::transform(sums, sums + elements, out,
                   [divisor](M sum) { return static_cast<U>(static_cast<double>(sum) / divisor); });
  }
}

}  // namespace

bool IsMean(const std::string& reduction) {
  if (reduction != "sum" && reduction != "mean") {
    throw CollectiveError("attribute 'reduction' is '" + reduction + "'; use 'sum' or 'mean'");
  }
  return reduction == "mean";
}

bool AllReduce(const Collective& collective, int stats_type, int64_t channels, bool mean, const void* scale_grad,
               const void* bias_grad, void* reduced_scale_grad, void* reduced_bias_grad) {
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* scale_in = static_cast<const U*>(scale_grad);
    const U* bias_in = static_cast<const U*>(bias_grad);
    U* scale_out = static_cast<U*>(reduced_scale_grad);
    U* bias_out = static_cast<U*>(reduced_bias_grad);
    if (Collective::Alone()) {
      std::copy_n(scale_in, channels, scale_out);
      std::copy_n(bias_in, channels, bias_out);
      return;
    }
    Reduce<double>(
        collective, kDouble, 2 * channels, mean,
        [&](double* payload) {
          std::copy_n(scale_in, channels, payload);
          std::copy_n(bias_in, channels, payload + channels);
        },
        [&](const double* payload, double divisor) {
          Divide(payload, channels, divisor, scale_out);
          Divide(payload + channels, channels, divisor, bias_out);
        });
  });
}

bool AllReduceBucket(const Collective& collective, int stats_type, int64_t elements, bool mean, const void* bucket,
                     void* reduced) {
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* in = static_cast<const U*>(bucket);
    U* out = static_cast<U*>(reduced);
    if (Collective::Alone()) {
      std::copy_n(in, elements, out);
      return;
    }
    Reduce<U>(
        collective, stats_type, elements, mean, [&](U* payload) { std::copy_n(in, elements, payload); },
        [&](const U* payload, double divisor) { Divide(payload, elements, divisor, out); });
  });
}

}  // namespace onnx_cbp
