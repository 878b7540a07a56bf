#include "op_spec.h"

#include <algorithm>
#include <cstring>

namespace onnx_cbp {

int OpSpec::data_input() const {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (std::strcmp(inputs[i].name, "X") == 0) return static_cast<int>(i);
  }
  return -1;
}

bool OpSpec::has_statistics_input() const {
  return std::any_of(inputs.begin(), inputs.end(), [](const Formal& f) { return f.type == TypeOf::kStatistics; });
}

}  // namespace onnx_cbp
