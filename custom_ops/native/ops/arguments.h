// What a kernel works on, besides types and sizes: a struct for each op of the table, such as ChannelStatsArguments.
#pragma once

#include <cstdint>
#include <type_traits>

#include "table.h"

namespace onnx_cbp {

// A tensor that an op reads or writes. Each name has its own type: mean does not convert to var, so swapped arguments
// do not compile. Null if there is none.
template <typename Name>
class Input {
 public:
  Input() = default;
  explicit Input(const void* data) : data_(data) {}
  const void* data() const { return data_; }
  template <typename T>
  const T* As() const {
    return static_cast<const T*>(data_);
  }

 private:
  const void* data_ = nullptr;
};

template <typename Name>
class Result {
 public:
  Result() = default;
  explicit Result(void* data) : data_(data) {}
  void* data() const { return data_; }
  template <typename T>
  T* As() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

#define ONNX_CBP_FIELD_ATTRIBUTE(type, name) type name;
#define ONNX_CBP_FIELD_IN(name, formal, kind) Input<struct formal_##name> name;
#define ONNX_CBP_FIELD_OUT(name, formal, kind) Result<struct formal_##name> name;
#define ONNX_CBP_ARGUMENTS(Name, name, sizes)                                           \
  struct Name##Arguments {                                                              \
    ONNX_CBP_OF_##name(ONNX_CBP_FIELD_ATTRIBUTE, ONNX_CBP_FIELD_IN, ONNX_CBP_FIELD_OUT) \
  };
ONNX_CBP_OPS(ONNX_CBP_ARGUMENTS)
#undef ONNX_CBP_ARGUMENTS
#undef ONNX_CBP_FIELD_ATTRIBUTE
#undef ONNX_CBP_FIELD_IN
#undef ONNX_CBP_FIELD_OUT

static_assert(
    !std::is_constructible_v<decltype(ChannelNormalizeArguments::mean), decltype(ChannelNormalizeArguments::var)>,
    "a mean is no variance");

// Collects the arguments in a function that has the parameters of the table.
#define ONNX_CBP_TAKE_ATTRIBUTE(type, name) name,
#define ONNX_CBP_TAKE_IN(name, formal, kind) ::onnx_cbp::Input<::onnx_cbp::formal_##name>(name),
#define ONNX_CBP_TAKE_OUT(name, formal, kind) ::onnx_cbp::Result<::onnx_cbp::formal_##name>(name),
#define ONNX_CBP_TAKEN(Name, name) \
  ::onnx_cbp::Name##Arguments { ONNX_CBP_OF_##name(ONNX_CBP_TAKE_ATTRIBUTE, ONNX_CBP_TAKE_IN, ONNX_CBP_TAKE_OUT) }

}  // namespace onnx_cbp
