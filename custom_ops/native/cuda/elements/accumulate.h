// Sums over elements: how a thread computes them, and how partial sums are merged.
#pragma once

#include <cstdint>

#include "../../kernels/channels/merge.h"
#include "vectors.h"

namespace onnx_cbp::cuda {

// What an element adds: `weight` to one sum, and weight * shifted to the other. For moments both are x - pivot; for
// gradients they are dy and x - mean. A is the type of the sums: float, double or Exact.
template <typename A>
struct Term {
  A weight, shifted;
};

// Stands for sums in pairs of floats, which lose nothing that double would keep. They are for GPUs on which double has
// a 32nd or a 64th of the speed of float.
struct Exact {};
template <>
struct Term<Exact> {
  float weight = 0.0f, shifted = 0.0f, rest = 0.0f;  // rest: the rounding error of shifted
};

// a + b, and its rounding error (Knuth).
struct RoundedSum {
  float sum, rest;

  ONNX_CBP_DEVICE static RoundedSum Of(float a, float b) {
    const float sum = a + b, of_b = sum - a;
    return {sum, (a - (sum - of_b)) + (b - of_b)};
  }
};

// A sum of a few floats, with all rounding errors.
struct CompensatedSum {
  float sum = 0.0f, rest = 0.0f;

  // Adds value + more.
  ONNX_CBP_DEVICE void Add(float value, float more) {
    const RoundedSum next = RoundedSum::Of(sum, value);
    sum = next.sum;
    rest += next.rest + more;
  }
  ONNX_CBP_DEVICE double wide() const { return static_cast<double>(sum) + static_cast<double>(rest); }
};

// Computed in float, which leaves the GPU's units for double free.
ONNX_CBP_DEVICE bool IsFinite(float value) { return value - value == 0.0f; }

// The sums of weight * shifted (product) and of weight (plain), in double. A batch has at most 16 additions per lane.
// It is first summed in type A, and then added here.
struct TermSums {
  double product = 0.0, plain = 0.0;

  // Adds the terms of a batch; terms.At<A>(i) is term i in type A. False if a sum in float is not finite: then nothing
  // is added.
  template <int kCount, typename A, typename Terms>
  ONNX_CBP_DEVICE bool AddIn(const Terms& terms) {
    constexpr int kLanes = kCount < 8 ? kCount < 2 ? 1 : 2 : 4;
    A products[kLanes] = {}, plains[kLanes] = {};
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kCount; ++i) {
      const int lane = i % kLanes;
      const Term<A> term = terms.template At<A>(i);
      products[lane] = MulAdd(term.weight, term.shifted, products[lane]);
      plains[lane] += term.weight;
    }
    const auto plus = [](A a, A b) { return a + b; };
    const A of_products = ReduceArray<kLanes>(products, plus), of_plains = ReduceArray<kLanes>(plains, plus);
    if constexpr (std::is_same_v<A, float>) {
      if (!IsFinite(of_products) || !IsFinite(of_plains)) return false;
    }
    product += static_cast<double>(of_products);
    plain += static_cast<double>(of_plains);
    return true;
  }

  // The same in pairs of floats. False also if products are so small that a float cannot hold their rounding errors.
  template <int kCount, typename Terms>
  ONNX_CBP_DEVICE bool AddExactly(const Terms& terms) {
    constexpr float kSmall = 0x1p-80f;
    CompensatedSum products, plains;
    float largest = 0.0f;
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kCount; ++i) {
      const Term<Exact> term = terms.template At<Exact>(i);
      const float rounded = term.weight * term.shifted;
      products.Add(rounded, MulAdd(term.weight, term.rest, MulAdd(term.weight, term.shifted, -rounded)));
      plains.Add(term.weight, 0.0f);
      largest = fmaxf(largest, fabsf(rounded));
    }
    if (!(largest >= kSmall) || !IsFinite(products.sum) || !IsFinite(plains.sum)) return false;
    product += products.wide();
    plain += plains.wide();
    return true;
  }

  ONNX_CBP_DEVICE TermSums operator+(const TermSums& other) const {
    return {product + other.product, plain + other.plain};
  }
};

// What an op knows about the channel of element i of a vector. Either all elements belong to one channel, or each has
// its own.
template <typename Channel>
struct OneChannel {
  const Channel& known;
  ONNX_CBP_DEVICE const Channel& operator()(int) const { return known; }
};
template <typename Channel>
struct OwnChannels {
  const Channel* known;
  ONNX_CBP_DEVICE const Channel& operator()(int i) const { return known[i]; }
};

// Adds kCount terms: in A if in_a is set and A can hold the sums, else in double. Sums that overflow float need not
// overflow double; for Inf and NaN the result is that of double.
template <typename A, int kCount, typename Terms>
ONNX_CBP_DEVICE void AddBatch(bool in_a, const Terms& terms, TermSums* sums) {
  if constexpr (std::is_same_v<A, Exact>) {
    if (in_a && sums->template AddExactly<kCount>(terms)) return;
  } else if constexpr (std::is_same_v<A, float>) {
    if (in_a && sums->template AddIn<kCount, float>(terms)) return;
  }
  sums->template AddIn<kCount, double>(terms);
}

// The moments of some elements of a channel, and how many elements these are.
struct MergedMoments {
  using Partial = Moments;
  double count = 0.0, mean = 0.0, m2 = 0.0;

  ONNX_CBP_DEVICE static MergedMoments From(const Moments& partial, double count) {
    return {count, partial.mean, partial.m2};
  }
  // Chan's merge. Equal means lose nothing, and an infinite mean stays infinite.
  ONNX_CBP_DEVICE static MergedMoments Merge(const MergedMoments& a, const MergedMoments& b) {
    if (b.count == 0.0) return a;
    if (a.count == 0.0) return b;
    const double count = a.count + b.count, share_a = a.count / count, share_b = b.count / count;
    const double delta = b.mean - a.mean;
    const double mean = delta == 0.0 ? a.mean : a.mean * share_a + b.mean * share_b;
    return {count, mean, a.m2 + b.m2 + delta * delta * (a.count * share_b)};
  }
};

// The sums of a gradient over some elements of a channel, and how many elements these are.
struct MergedSums {
  using Partial = Sums;
  double count = 0.0, product = 0.0, gradient = 0.0;

  ONNX_CBP_DEVICE static MergedSums From(const Sums& partial, double count) {
    return count == 0.0 ? MergedSums{} : MergedSums{count, partial.product, partial.gradient};
  }
  ONNX_CBP_DEVICE static MergedSums Merge(const MergedSums& a, const MergedSums& b) {
    return {a.count + b.count, a.product + b.product, a.gradient + b.gradient};
  }
};

}  // namespace onnx_cbp::cuda
