// Memory for messages, which a thread keeps from one collective to the next.
#pragma once

#include <cstddef>
#include <memory>

#include "../c_api.h"

namespace onnx_cbp {

class MessageBuffer {
 public:
  // Memory for `messages` messages, each with a header and `elements` elements of type M.
  template <typename M>
  M* Reserve(size_t elements, size_t messages = 1) {
    return static_cast<M*>(ReserveBytes((ONNX_CBP_MESSAGE_HEADER + elements) * messages * sizeof(M)));
  }
  // After a failed collective: messages that are still on their way may be written there later, so this memory is never
  // freed.
  void Abandon();
  // Frees memory that is too large to keep.
  void Trim();

 private:
  void* ReserveBytes(size_t bytes);

  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

// Runs a collective on buffers; if it throws, the buffers are abandoned.
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
