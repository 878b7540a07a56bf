// ChannelBackprop: the input gradient of a batch norm.
#include <algorithm>

#include "../dividing/caches.h"
#include "../element_types.h"
#include "../loops/channels/backprop.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// dx = scale * inv_std * (dy - bias_grad / count - (x - mean) * inv_std * scale_grad / count).
bool ChannelBackprop(const TensorCall& call, const ChannelBackpropArguments& a) {
  const Layout& layout = call.layout;
  return Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    using V = ComputeType<T, U>;
    const auto value = [](const auto& vector, size_t c) { return static_cast<double>(vector.template As<U>()[c]); };
    const double elements = static_cast<double>(std::max<int64_t>(*a.count.As<int64_t>(), 1));
    std::vector<BackpropCoefficients<V>> all(static_cast<size_t>(layout.channels));
    for (size_t c = 0; c < all.size(); ++c) {
      all[c] = MakeBackpropCoefficients<V>(value(a.scale, c), value(a.mean, c), value(a.inv_std, c),
                                           value(a.scale_grad, c), value(a.bias_grad, c), elements);
    }
    const Partition partition = Partition::OfMap(layout);
    const Output<T> out{a.dx.As<T>(), WritesPastCaches(layout, sizeof(T), 3 * layout.size() * sizeof(T))};
    call.executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Piece piece = partition.piece(task);
      BackpropPiece(layout, piece, all.data(), a.dy.As<T>(), ReluOf<T, V>{}, a.x.As<T>(), out);
    });
  });
}

}  // namespace onnx_cbp
