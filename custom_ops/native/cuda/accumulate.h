// Sums over elements: what a thread keeps, and how partial results are merged.
#pragma once

#include <cstdint>

#include "plan.h"
#include "vectors.h"

namespace onnx_cbp::cuda {

// What an element adds: weight to one sum, weight * shifted to the other. For moments both are x - pivot, for gradients
// they are dy and x - mean.
template <typename A>
struct Term {
  A weight, shifted;
};

// The two sums. Those of a batch, of up to 16 additions to a lane, are made in type A and then go on in double.
struct TermSums {
  double product = 0.0, plain = 0.0;

  // terms(A{}, i) is term i in type A.
  template <int kCount, typename A, typename Terms>
  ONNX_CBP_DEVICE static TermSums Of(Terms&& terms) {
    constexpr int kLanes = kCount < 8 ? kCount < 2 ? 1 : 2 : 4;
    A product[kLanes] = {}, plain[kLanes] = {};
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kCount; ++i) {
      const int lane = i % kLanes;
      const Term<A> term = terms(A{}, i);
      product[lane] = MulAdd(term.weight, term.shifted, product[lane]);
      plain[lane] += term.weight;
    }
    const auto plus = [](A a, A b) { return a + b; };
    return {static_cast<double>(ReduceArray<kLanes>(product, plus)),
            static_cast<double>(ReduceArray<kLanes>(plain, plus))};
  }

  ONNX_CBP_DEVICE bool finite() const { return product - product == 0.0 && plain - plain == 0.0; }
  ONNX_CBP_DEVICE TermSums operator+(const TermSums& other) const {
    return {product + other.product, plain + other.plain};
  }
};

// What is known of the channel of element i of a vector: the same for all, or for each its own.
template <typename Channel>
struct Same {
  const Channel& of;
  ONNX_CBP_DEVICE const Channel& operator()(int) const { return of; }
};
template <typename Channel>
struct Own {
  const Channel* of;
  ONNX_CBP_DEVICE const Channel& operator()(int i) const { return of[i]; }
};

// Adds kCount terms. What overflows float need not overflow double, and Inf and NaN get the answer of double.
template <typename A, int kCount, typename Terms>
ONNX_CBP_DEVICE void AddBatch(Terms&& terms, TermSums* sums) {
  TermSums added = TermSums::Of<kCount, A>(terms);
  if constexpr (std::is_same_v<A, float>) {
    if (!added.finite()) added = TermSums::Of<kCount, double>(terms);
  }
  *sums = *sums + added;
}

// Mean and sum of squared deviations of some elements.
struct MergedMoments {
  double count = 0.0, mean = 0.0, m2 = 0.0;

  ONNX_CBP_DEVICE static MergedMoments From(const Pair& partial, double count) {
    return {count, partial.first, partial.second};
  }
  // Chan's merge. Of equal means nothing is lost, and an infinite one stays infinite.
  ONNX_CBP_DEVICE static MergedMoments Merge(const MergedMoments& a, const MergedMoments& b) {
    if (b.count == 0.0) return a;
    if (a.count == 0.0) return b;
    const double count = a.count + b.count, share_a = a.count / count, share_b = b.count / count;
    const double delta = b.mean - a.mean;
    const double mean = delta == 0.0 ? a.mean : a.mean * share_a + b.mean * share_b;
    return {count, mean, a.m2 + b.m2 + delta * delta * (a.count * share_b)};
  }
};

// Sums of dy * (x - mean), which inv_std is yet to multiply, and of dy.
struct MergedSums {
  double count = 0.0, product = 0.0, gradient = 0.0;

  ONNX_CBP_DEVICE static MergedSums From(const Pair& partial, double count) {
    return count == 0.0 ? MergedSums{} : MergedSums{count, partial.first, partial.second};
  }
  ONNX_CBP_DEVICE static MergedSums Merge(const MergedSums& a, const MergedSums& b) {
    return {a.count + b.count, a.product + b.product, a.gradient + b.gradient};
  }
};

}  // namespace onnx_cbp::cuda
