// What every plain C function refuses before it does anything: types and sizes that are none, and null for a tensor.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/element_types.h"

namespace onnx_cbp {

constexpr const char* kUnknownType =
    "unknown type: x is float (1), float16 (10), double (11) or bfloat16 (16), statistics float or double";

inline bool IsElementType(int type) {
  return type == kFloat || type == kFloat16 || type == kDouble || type == kBFloat16;
}

inline bool IsStatisticsType(int type) { return type == kFloat || type == kDouble; }

// The product of sizes; false where one is negative, or an int64 cannot count that many.
inline const char* Product(std::initializer_list<int64_t> sizes, int64_t* elements) {
  bool too_many = false, none = false;
  *elements = 1;
  for (const int64_t size : sizes) {
    if (size < 0) return "a size is negative";
    none = none || size == 0;
    too_many = too_many || __builtin_mul_overflow(*elements, size, elements);
  }
  if (none) *elements = 0;
  return too_many && !none ? "the tensor has more elements than an int64 can count" : nullptr;
}

// Tensors of one size, of which none may be null unless it is empty.
struct Tensors {
  int64_t elements;
  std::initializer_list<const void*> pointers;

  bool Missing() const {
    for (const void* pointer : pointers) {
      if (pointer == nullptr && elements != 0) return true;
    }
    return false;
  }
};

inline const char* MissingTensor(std::initializer_list<Tensors> all) {
  for (const Tensors& tensors : all) {
    if (tensors.Missing()) return "a pointer is null, and its tensor is not empty";
  }
  return nullptr;
}

}  // namespace onnx_cbp
