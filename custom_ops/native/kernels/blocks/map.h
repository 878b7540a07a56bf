// Making one tensor from others, element by element.
#pragma once

#include "../traverse.h"

namespace onnx_cbp::ONNX_CBP_TARGET {
namespace {

// out[i] = make(i, load): what is made of element i and those after it, read with load.
template <bool kStream, typename V, typename T, typename F>
ONNX_CBP_INLINE void MapRun(int64_t count, T* out, F&& make) {
  int64_t i = 0;
  const auto part = [&](int64_t elements) {
    StorePart<V>(make(i, Part<V>{static_cast<int>(elements)}), out + i, static_cast<int>(elements));
    i += elements;
  };
  if constexpr (kStream) {
    const int64_t head = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T)) & (kWidth<V> - 1);
    if (head > 0) part(head < count ? head : count);
  }
  for (; i + kWidth<V> <= count; i += kWidth<V>) StoreVector<kStream>(make(i, Whole<V>{}), out + i);
  if (i < count) part(count - i);
}

}  // namespace
}  // namespace onnx_cbp::ONNX_CBP_TARGET
