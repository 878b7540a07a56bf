// Keeps memory for messages.
#include "messages.h"

namespace onnx_cbp {
namespace {
constexpr size_t kLargestKept = size_t{1} << 20;
}

void* MessageBuffer::ReserveBytes(size_t bytes) {
  if (bytes > size_) {
    memory_.reset();  // free it first: two large blocks may not fit
    size_ = 0;
    memory_.reset(new std::byte[bytes]);
    size_ = bytes;
  }
  return memory_.get();
}

void MessageBuffer::Abandon() {
  static_cast<void>(memory_.release());
  size_ = 0;
}

void MessageBuffer::Trim() {
  if (size_ <= kLargestKept) return;
  memory_.reset();
  size_ = 0;
}

}  // namespace onnx_cbp
