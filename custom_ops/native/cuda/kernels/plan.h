// Divides a tensor [outer, channels, inner] among the blocks of a launch: each task has a block. The division depends
// only on the shape and the width of vectors, never on time or on the device. So results are bit for bit the same every
// time, on every GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../kernels/dividing/partition.h"
#include "../queue.h"
#include "../threads/block.h"

namespace onnx_cbp::cuda {

constexpr int kThreads = 256;  // threads of a block that reads tensors

// For planes so long that a block can work on one channel. A channel is a sequence of units (vectors or single
// elements), plane after plane. It is cut into parts of per_part units; a task is one part of one channel.
struct Planes {
  int64_t channels, planes, inner;  // inner: units per plane
  int64_t parts, per_part;
  int width;                        // elements per unit
  int64_t step_planes, step_units;  // kThreads units are this many planes and this many more units

  ONNX_CBP_INLINE int64_t tasks() const { return channels * parts; }
  ONNX_CBP_INLINE int64_t units() const { return planes * inner; }
  ONNX_CBP_INLINE int64_t channel(int64_t task) const { return task % channels; }
  ONNX_CBP_INLINE int64_t part(int64_t task) const { return task / channels; }
  // The units of a part.
  ONNX_CBP_INLINE int64_t begin(int64_t part) const { return part * per_part; }
  ONNX_CBP_INLINE int64_t end(int64_t part) const {
    const int64_t end = begin(part) + per_part;
    return end < units() ? end : units();
  }

  // A channel has a partial sum for each part, and these lie together: sum i is at partial(channel, i), and covers
  // count(channel, i) elements.
  int64_t partials() const { return tasks(); }
  ONNX_CBP_INLINE int64_t partials_of_channel() const { return parts; }
  ONNX_CBP_INLINE int64_t partial(int64_t channel, int64_t i) const { return channel * parts + i; }
  ONNX_CBP_INLINE int64_t count(int64_t, int64_t i) const { return (end(i) - begin(i)) * width; }
};

// The place of a thread that walks through a channel.
struct PlaneWalk {
  int64_t at, in_plane;  // its unit, counted from the beginning of the tensor and of the plane

  ONNX_CBP_INLINE PlaneWalk(const Planes& planes, int64_t channel, int64_t unit) {
    const int64_t plane = unit / planes.inner;
    in_plane = unit - plane * planes.inner;
    at = (plane * planes.channels + channel) * planes.inner + in_plane;
  }

  // Moves on by kThreads units of the channel.
  ONNX_CBP_INLINE void Step(const Planes& planes) {
    at += planes.step_planes * planes.channels * planes.inner + planes.step_units;
    in_plane += planes.step_units;
    if (in_plane >= planes.inner) {
      in_plane -= planes.inner;
      at += (planes.channels - 1) * planes.inner;
    }
  }
};

// For short planes, as in NHWC. The tensor becomes a matrix, each column of which belongs to one channel. A row of the
// matrix may be several rows [channels, inner] of the tensor: so few channels also fill a warp, and vectors fit rows of
// any length. The last row may be shorter. A task is a tile: kWarp vectors side by side, in the rows of one part.
struct Tiles {
  static constexpr int kRowsAtOnce = kThreads / kWarp;

  int64_t size;     // elements of the tensor
  int64_t columns;  // a multiple of period and of width
  int64_t period;   // channels * inner
  int64_t channels, inner;
  int64_t rows, parts, per_part;  // per_part: rows per part
  int64_t across;                 // number of tiles side by side
  int width;                      // elements per vector

  ONNX_CBP_INLINE int64_t tasks() const { return across * parts; }
  ONNX_CBP_INLINE int64_t part(int64_t task) const { return task / across; }
  // The rows of a part.
  ONNX_CBP_INLINE int64_t begin(int64_t part) const { return part * per_part; }
  ONNX_CBP_INLINE int64_t end(int64_t part) const {
    const int64_t end = begin(part) + per_part;
    return end < rows ? end : rows;
  }
  // The first column of a lane's vector. It may be beyond the last column of the matrix.
  ONNX_CBP_INLINE int64_t column(int64_t task, int lane) const { return (task % across * kWarp + lane) * width; }
  ONNX_CBP_INLINE int64_t channel(int64_t column) const { return column % period / inner; }

  // The partial sums are a matrix [parts, columns]: sum i of a channel is at partial(channel, i), and covers
  // count(channel, i) elements.
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
  // How many elements a column has in the rows from begin to end.
  ONNX_CBP_INLINE int64_t count_in(int64_t column, int64_t begin, int64_t end) const {
    const bool ends_before = end == rows && (rows - 1) * columns + column >= size;
    return end - begin - (ends_before ? 1 : 0);
  }
  // The end of the rows that have the whole vector at this column. Of the rows up to `end`, only the last can have
  // less.
  ONNX_CBP_INLINE int64_t end_of_whole(int64_t column, int64_t end) const {
    return end == rows && (rows - 1) * columns + column + width > size ? end - 1 : end;
  }
  ONNX_CBP_INLINE int64_t count(int64_t channel, int64_t i) const {
    const int64_t part = i / columns_of_channel();
    return count_in(column_of(channel, i), begin(part), end(part));
  }
};

// The part of a tile that a thread works on: one vector of columns, in every kRowsAtOnce-th row.
struct TileWalk {
  int64_t column;           // the vector's first; if it is beyond the last, the thread has nothing to do
  int64_t row, whole, end;  // the first row; the end of the rows with a whole vector; the end of the part

  ONNX_CBP_INLINE TileWalk(const Tiles& tiles, int64_t task, int thread)
      : column(tiles.column(task, thread % kWarp)),
        row(tiles.begin(tiles.part(task)) + thread / kWarp),
        whole(tiles.end_of_whole(column, tiles.end(tiles.part(task)))),
        end(tiles.end(tiles.part(task))) {}

  // Whether the thread has the row that holds only the first elements of the vector.
  ONNX_CBP_INLINE bool has_part() const { return whole < end && (whole - row) % Tiles::kRowsAtOnce == 0; }
};

// Either Planes or Tiles.
struct Plan {
  bool by_plane;
  Planes planes;
  Tiles tiles;

  int64_t tasks() const { return by_plane ? planes.tasks() : tiles.tasks(); }
  int width() const { return by_plane ? planes.width : tiles.width; }
};

// How many elements a vector has. It has 16 bytes, but only four 16-bit elements: with eight, Tiles would need more
// registers than it saves instructions, and planes of 14 x 14 would not fit.
template <typename T>
constexpr int kVectorWidth = sizeof(T) == 8 ? 2 : 4;

// The plan for a tensor that is not empty. vector_width is the kVectorWidth of its type. `aligned` says whether all
// tensors of the call begin at multiples of this many elements.
Plan MakePlan(const Layout& layout, int vector_width, bool aligned);

// How many partial sums a plan for the layout has at most.
int64_t MostPartials(const Layout& layout);

}  // namespace onnx_cbp::cuda
