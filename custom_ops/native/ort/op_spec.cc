// Answers questions about an op from its formals.
#include "op_spec.h"

#include <algorithm>
#include <cstring>

#include "../kernels/element_types.h"

namespace onnx_cbp {
namespace {

bool HasStatistics(const std::vector<Formal>& formals) {
  return std::any_of(formals.begin(), formals.end(), [](const Formal& f) { return f.type == TypeOf::kStatistics; });
}

}  // namespace

int OpSpec::TypeNumber(const Formal& formal, int data_type, int statistics_type) {
  switch (formal.type) {
    case TypeOf::kData:
      return data_type;
    case TypeOf::kStatistics:
      return statistics_type;
    case TypeOf::kCount:
      break;
  }
  return kInt64;
}

int OpSpec::data_input() const {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (std::strcmp(inputs[i].name, "X") == 0) return static_cast<int>(i);
  }
  return -1;
}

bool OpSpec::has_statistics_input() const { return HasStatistics(inputs); }

bool OpSpec::has_statistics() const { return HasStatistics(inputs) || HasStatistics(outputs); }

bool OpSpec::has_windows() const {
  return is_dense() ||
         std::any_of(inputs.begin(), inputs.end(), [](const Formal& f) { return f.shape == ShapeOf::kWindows; });
}

bool OpSpec::is_dense() const {
  return std::any_of(inputs.begin(), inputs.end(), [](const Formal& f) {
    return f.shape == ShapeOf::kOutputs || f.shape == ShapeOf::kWeight || f.shape == ShapeOf::kExchangedWeight;
  });
}

}  // namespace onnx_cbp
