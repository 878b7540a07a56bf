// AllReduce: every replica gets the sum or the mean over all replicas.
#include <algorithm>
#include <string>

#include "../kernels/element_types.h"
#include "../kernels/op.h"
#include "communicator.h"
#include "messages.h"

namespace onnx_cbp {
namespace {

// Reduces a message of type M that `pack` writes. `unpack` gets the result, and the number by which to divide each
// element.
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

// Divides the sums in double, and rounds once.
template <typename M, typename U>
void Divide(const M* sums, int64_t elements, double divisor, U* out) {
  if (divisor == 1.0) {
    std::transform(sums, sums + elements, out, [](M sum) { return static_cast<U>(sum); });
  } else {
    std::transform(sums, sums + elements, out,
                   [divisor](M sum) { return static_cast<U>(static_cast<double>(sum) / divisor); });
  }
}

// Whether the reduction is "mean" and not "sum".
bool IsMean(const std::string& reduction) {
  if (reduction != "sum" && reduction != "mean") {
    throw CollectiveError("attribute 'reduction' is '" + reduction + "'; use 'sum' or 'mean'");
  }
  return reduction == "mean";
}

}  // namespace

// Both vectors [channels] in one message of doubles.
bool AllReduce(const ReduceCall& call, const AllReduceArguments& a) {
  const int64_t channels = call.channels;
  const bool mean = IsMean(a.reduction);
  return DispatchStatistics(call.stats_type, [&](auto u) {
    using U = decltype(u);
    const U* scale_in = a.scale_grad.As<U>();
    const U* bias_in = a.bias_grad.As<U>();
    U* scale_out = a.reduced_scale_grad.As<U>();
    U* bias_out = a.reduced_bias_grad.As<U>();
    if (Collective::Alone()) {
      std::copy_n(scale_in, channels, scale_out);
      std::copy_n(bias_in, channels, bias_out);
      return;
    }
    Reduce<double>(
        call.collective, kDouble, 2 * channels, mean,
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

// One vector, in a message of the vector's own type.
bool AllReduceBucket(const ReduceCall& call, const AllReduceBucketArguments& a) {
  const int64_t elements = call.channels;
  const bool mean = IsMean(a.reduction);
  return DispatchStatistics(call.stats_type, [&](auto u) {
    using U = decltype(u);
    const U* in = a.bucket.As<U>();
    U* out = a.reduced.As<U>();
    if (Collective::Alone()) {
      std::copy_n(in, elements, out);
      return;
    }
    Reduce<U>(
        call.collective, call.stats_type, elements, mean, [&](U* payload) { std::copy_n(in, elements, payload); },
        [&](const U* payload, double divisor) { Divide(payload, elements, divisor, out); });
  });
}

}  // namespace onnx_cbp
