// How much of a convolution fits the target's registers.
#pragma once

#include "../../convolutions/conv_plan.h"
#include "../../processors/simd.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// How many vectors hold one block of output channels.
template <typename V>
constexpr int kBlockVectors = static_cast<int>(kConvLanes / kWidth<V>);

// How many registers hold sums; the others hold factors.
#if defined(ONNX_CBP_AVX512)
constexpr int kSums = 28;
#elif defined(__AVX2__)
constexpr int kSums = 12;
#elif defined(__ARM_NEON)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

// How many blocks are computed together.
#if defined(ONNX_CBP_AVX512)
template <typename V>
constexpr int kBlocksTogether = 2 / kBlockVectors<V>;
#else
template <typename V>
constexpr int kBlocksTogether = 1;
#endif

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
