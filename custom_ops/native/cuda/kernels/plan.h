// How a tensor [outer, channels, inner] is divided among the blocks of a launch. The division depends on the shape and
// the width of vectors, never on time or on the device: results are the same bits every time on every GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../kernels/dividing/partition.h"
#include "../queue.h"
#include "../threads/block.h"

namespace onnx_cbp::cuda {

// Sums over some elements of a channel: Moments or Sums of kernels/channels/merge.h.
struct Pair {
  double first, second;
};

constexpr int kThreads = 256;  // of the blocks that read tensors

// Planes that are long enough for a block to work on one channel. A channel is a sequence of units (vectors or single
// elements), plane after plane; a part of it is so many units in a row.
struct Planes {
  int64_t channels, planes, inner;  // inner: units of a plane
  int64_t parts, per_part;          // units of a part
  int width;                        // elements of a unit
  int64_t step_planes, step_units;  // what a step of kThreads units is

  int64_t tasks() const { return channels * parts; }
  ONNX_CBP_INLINE int64_t units() const { return planes * inner; }
  ONNX_CBP_INLINE int64_t channel(int64_t task) const { return task % channels; }
  ONNX_CBP_INLINE int64_t begin(int64_t task) const { return task / channels * per_part; }
  ONNX_CBP_INLINE int64_t end(int64_t task) const {
    const int64_t end = begin(task) + per_part;
    return end < units() ? end : units();
  }

  // Of the partial sums, those of a channel lie together.
  int64_t partials() const { return tasks(); }
  ONNX_CBP_INLINE int64_t partials_of_channel() const { return parts; }
  ONNX_CBP_INLINE int64_t partial(int64_t channel, int64_t i) const { return channel * parts + i; }
  ONNX_CBP_INLINE int64_t count(int64_t, int64_t i) const {
    const int64_t left = units() - i * per_part;
    return (left < per_part ? left : per_part) * width;
  }
};

// Where a thread is in a channel, in units from the tensor's first.
struct PlaneWalk {
  int64_t at, in_plane;

  ONNX_CBP_INLINE PlaneWalk(const Planes& planes, int64_t channel, int64_t unit) {
    const int64_t plane = unit / planes.inner;
    in_plane = unit - plane * planes.inner;
    at = (plane * planes.channels + channel) * planes.inner + in_plane;
  }

  // To the unit kThreads further.
  ONNX_CBP_INLINE void Step(const Planes& planes) {
    at += planes.step_planes * planes.channels * planes.inner + planes.step_units;
    in_plane += planes.step_units;
    if (in_plane >= planes.inner) {
      in_plane -= planes.inner;
      at += (planes.channels - 1) * planes.inner;
    }
  }
};

// Planes that are short, as in NHWC: the tensor as a matrix of so many columns, of which each belongs to one channel. A
// row may be several of the tensor's [channels, inner], so that few channels fill a warp too, and vectors fit rows of
// any length; the last row need not be whole.
struct Tiles {
  static constexpr int kRowsAtOnce = kThreads / kWarp;

  int64_t size;     // elements of the tensor
  int64_t columns;  // a multiple of period and of width
  int64_t period;   // channels * inner
  int64_t channels, inner;
  int64_t rows, parts, per_part;  // rows of a part
  int64_t across;                 // tiles side by side; one has kWarp units of width columns
  int width;

  int64_t tasks() const { return across * parts; }
  ONNX_CBP_INLINE int64_t begin(int64_t task) const { return task / across * per_part; }
  ONNX_CBP_INLINE int64_t end(int64_t task) const {
    const int64_t end = begin(task) + per_part;
    return end < rows ? end : rows;
  }
  // The first column of a lane; it may be beyond the last.
  ONNX_CBP_INLINE int64_t column(int64_t task, int lane) const { return (task % across * kWarp + lane) * width; }
  ONNX_CBP_INLINE int64_t channel(int64_t column) const { return column % period / inner; }

  int64_t partials() const { return parts * columns; }
  ONNX_CBP_INLINE int64_t columns_of_channel() const { return columns / period * inner; }
  ONNX_CBP_INLINE int64_t partials_of_channel() const { return parts * columns_of_channel(); }
  ONNX_CBP_INLINE int64_t column_of(int64_t channel, int64_t i) const {
    const int64_t of_channel = i % columns_of_channel();
    return of_channel / inner * period + channel * inner + of_channel % inner;
  }
  ONNX_CBP_INLINE int64_t partial(int64_t channel, int64_t i) const {
    return i / columns_of_channel() * columns + column_of(channel, i);
  }
  // Elements of a column in the rows from begin to end.
  ONNX_CBP_INLINE int64_t count_in(int64_t column, int64_t begin, int64_t end) const {
    const bool ends_before = end == rows && (rows - 1) * columns + column >= size;
    return end - begin - (ends_before ? 1 : 0);
  }
  // Where the rows end in which the unit at this column is whole. Of the rows up to `end`, only the last can have less.
  ONNX_CBP_INLINE int64_t end_of_whole(int64_t column, int64_t end) const {
    return end == rows && (rows - 1) * columns + column + width > size ? end - 1 : end;
  }
  ONNX_CBP_INLINE int64_t count(int64_t channel, int64_t i) const {
    const int64_t begin = i / columns_of_channel() * per_part;
    const int64_t end = begin + per_part;
    return count_in(column_of(channel, i), begin, end < rows ? end : rows);
  }
};

// One of both.
struct Plan {
  bool by_plane;
  Planes planes;
  Tiles tiles;

  int64_t tasks() const { return by_plane ? planes.tasks() : tiles.tasks(); }
  int width() const { return by_plane ? planes.width : tiles.width; }
};

// The elements of a vector: 16 bytes, but four elements of 16 bits, since more of them would take more registers in
// Tiles than they save instructions, and not fit planes of 14 x 14.
template <typename T>
constexpr int kVectorWidth = sizeof(T) == 8 ? 2 : 4;

// For a tensor that is not empty. vector_width is that of its type, `aligned` whether all tensors of the call are at
// multiples of so many elements.
Plan MakePlan(const Layout& layout, int vector_width, bool aligned);

// Bytes of the partial sums of any plan for the layout.
int64_t PartialBytes(const Layout& layout);

}  // namespace onnx_cbp::cuda
