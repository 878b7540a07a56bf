// Mean and variance, block by block.
#pragma once

#include "../../channels/merge.h"
#include "../../dividing/partition.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                             \
  namespace target {                                                                         \
  template <typename T, typename V>                                                          \
  void BlockMoments(const Layout& layout, const Block& block, const T* x, Moments* moments); \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// Moments of every channel of a block, summed around a pivot: in double, or where V is float in short runs of float.
template <typename T, typename V>
void BlockMoments(const Layout& layout, const Block& block, const T* x, Moments* moments) {
  ONNX_CBP_RETURN_ON_TARGET((layout, block, x, moments), BlockMoments<T, V>);
}

}  // namespace onnx_cbp
