// Memory for messages, kept from one collective of a thread to the next.
#pragma once

#include <cstddef>
#include <memory>

#include "../c_api.h"

namespace onnx_cbp {

class MessageBuffer {
 public:
  // Room for a header and `elements` of M, `messages` times.
  template <typename M>
  M* Reserve(size_t elements, size_t messages = 1) {
    return static_cast<M*>(ReserveBytes((ONNX_CBP_MESSAGE_HEADER + elements) * messages * sizeof(M)));
  }
  // After a collective that failed: what is still on its way may be written there later, so the memory is never
  // given back.
  void Abandon();
  // Gives back what is too large to keep.
  void Trim();

 private:
  void* ReserveBytes(size_t bytes);

  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

// Runs a collective on buffers; they are abandoned if it throws.
template <typename F, typename... Buffers>
auto Communicate(F&& collective, Buffers&... buffers) {
  try {
    return collective();
  } catch (...) {
    (buffers.Abandon(), ...);
    throw;
  }
}

}  // namespace onnx_cbp
