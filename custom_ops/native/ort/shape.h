// The shape of a tensor, without memory of its own, since a kernel looks at several shapes in every run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "ort_api.h"

namespace onnx_cbp {

class Shape {
 public:
  static constexpr size_t kMaxRank = 16;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : rank_(sizes.size()) { std::copy(sizes.begin(), sizes.end(), sizes_); }

  // The shape of a tensor; only its rank if that is more than kMaxRank.
  static Shape Of(Ort::ConstValue tensor) {
    const OrtApi& api = Ort::GetApi();
    OrtTensorTypeAndShapeInfo* raw = nullptr;
    Ort::ThrowOnError(api.GetTensorTypeAndShape(tensor, &raw));
    const Ort::TensorTypeAndShapeInfo info(raw);
    Shape shape;
    Ort::ThrowOnError(api.GetDimensionsCount(raw, &shape.rank_));
    if (shape.rank_ <= kMaxRank) Ort::ThrowOnError(api.GetDimensions(raw, shape.sizes_, shape.rank_));
    return shape;
  }

  size_t size() const { return rank_; }
  const int64_t* data() const { return sizes_; }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + rank_; }
  int64_t operator[](size_t i) const { return sizes_[i]; }
  int64_t front() const { return sizes_[0]; }
  int64_t back() const { return sizes_[rank_ - 1]; }
  bool operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

  void Append(int64_t size) { sizes_[rank_++] = size; }

  int64_t Product(size_t first, size_t last) const {
    int64_t product = 1;
    for (size_t i = first; i < last; ++i) product *= sizes_[i];
    return product;
  }

  std::string ToString() const {
    std::string text = "[";
    for (size_t i = 0; i < rank_; ++i) text += (i ? "," : "") + std::to_string(sizes_[i]);
    return text + "]";
  }

 private:
  int64_t sizes_[kMaxRank] = {};
  size_t rank_ = 0;
};

}  // namespace onnx_cbp
