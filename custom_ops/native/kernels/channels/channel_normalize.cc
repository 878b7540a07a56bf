// ChannelNormalize: normalises by given statistics.
#include <cmath>

#include "../dividing/caches.h"
#include "../element_types.h"
#include "../loops/channels/normalize.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// y = (x - mean) * (scale / sqrt(var + epsilon)) + b.
bool ChannelNormalize(const TensorCall& call, const ChannelNormalizeArguments& a) {
  const Layout& layout = call.layout;
  return Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    using V = ComputeType<T, U>;
    const auto value = [](const auto& vector, size_t c) { return static_cast<double>(vector.template As<U>()[c]); };
    std::vector<NormalizeCoefficients<V>> all(static_cast<size_t>(layout.channels));
    for (size_t c = 0; c < all.size(); ++c) {
      const double inv_std = 1.0 / std::sqrt(value(a.var, c) + a.epsilon);
      all[c] = MakeNormalizeCoefficients<V>(value(a.mean, c), inv_std, value(a.scale, c), value(a.b, c));
    }
    const Partition partition = Partition::OfMap(layout);
    const Output<T> out{a.y.As<T>(), WritesPastCaches(layout, sizeof(T), 2 * layout.size() * sizeof(T))};
    call.executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Piece piece = partition.piece(task);
      NormalizePiece(layout, piece, all.data(), a.x.As<T>(), false, out);
    });
  });
}

}  // namespace onnx_cbp
