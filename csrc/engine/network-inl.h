// A whole network forward and backward in one call: values of a block of rows stay in cache, a unit after the other,
// with the rows of the batch in lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/network_heads-inl.h"
#include "engine/simd-inl.h"
#include "plan/network.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Weights of the tiles one after another, four for each column, zero where the mask is.
template <class T>
void pack_tiles(const TileView& lists, const T* weight, int64_t row_stride, int64_t column_stride, T* packed) {
  for (int64_t tile = 0; tile < lists.tiles; ++tile) {
    const T* rows = weight + tile * kUnitsAtOnce * row_stride;
    for (int64_t i = lists.starts[tile]; i < lists.starts[tile + 1]; ++i) {
      const T* column = rows + lists.columns[i] * column_stride;
      const int bits = lists.bits[i];
      for (int r = 0; r < kUnitsAtOnce; ++r)
        packed[i * kUnitsAtOnce + r] = bits >> r & 1 ? column[r * row_stride] : T(0);
    }
  }
}

// out[r][v] += packed weights times source, for `count` columns, kVecs vectors of rows.
template <class T, int kVecs>
MADE_FAST_INLINE void multiply_tile(Vec<T> (&sum)[kUnitsAtOnce][kVecs], const T* packed, const int32_t* columns,
                                    int64_t count, const T* source, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) {
    const T* values = source + columns[i] * stride;
    Vec<T> value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = load<T>(values + v * kLanes<T>);
    for (int r = 0; r < kUnitsAtOnce; ++r) {
      const Vec<T> weight = splat<T>(packed[i * kUnitsAtOnce + r]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = weight * value[v] + sum[r][v];
    }
  }
}

// One side of a product: the sums of a tile over the terms that feed it.
template <class T>
struct Summand {
  const TileView* lists;
  const T* packed;
  const T* source;
};

template <class T, int kVecs>
MADE_FAST_INLINE void tile_sums(const Summand<T>* summands, int count, int64_t tile, int64_t rows, int64_t stride,
                                int64_t first, const T* bias, bool add, T* out) {
  Vec<T> sum[kUnitsAtOnce][kVecs];
  const int64_t unit = tile * kUnitsAtOnce;
  for (int r = 0; r < kUnitsAtOnce; ++r)
    for (int v = 0; v < kVecs; ++v)
      sum[r][v] = add && unit + r < rows ? load<T>(out + (unit + r) * stride + first + v * kLanes<T>)
                                         : splat<T>(bias != nullptr && unit + r < rows ? bias[unit + r] : T(0));
  for (int s = 0; s < count; ++s) {
    const TileView& lists = *summands[s].lists;
    const int64_t begin = lists.starts[tile], end = lists.starts[tile + 1];
    multiply_tile<T, kVecs>(sum, summands[s].packed + begin * kUnitsAtOnce, lists.columns + begin, end - begin,
                            summands[s].source + first, stride);
  }
  for (int r = 0; r < kUnitsAtOnce && unit + r < rows; ++r)
    for (int v = 0; v < kVecs; ++v) store<T>(out + (unit + r) * stride + first + v * kLanes<T>, sum[r][v]);
}

// out (rows, stride) = bias + sum of products, or += without a bias.
template <class T>
void products(const Summand<T>* summands, int count, int64_t rows, int64_t stride, const T* bias, bool add, T* out) {
  const int64_t tiles = (rows + kUnitsAtOnce - 1) / kUnitsAtOnce;
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int64_t first = 0;
    for (; first + 2 * lanes <= stride; first += 2 * lanes)
      tile_sums<T, 2>(summands, count, tile, rows, stride, first, bias, add, out);
    for (; first < stride; first += lanes) tile_sums<T, 1>(summands, count, tile, rows, stride, first, bias, add, out);
  }
}

// out (units, stride) from in (rows, units): rows in lanes, zero beyond the last.
template <class T>
void rows_to_lanes(const T* in, int64_t rows, int64_t units, int64_t stride, T* out) {
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int64_t row = 0; row < rows; ++row) out[unit * stride + row] = in[row * units + unit];
    for (int64_t row = rows; row < stride; ++row) out[unit * stride + row] = T(0);
  }
}

template <class T>
void lanes_to_rows(const T* in, int64_t rows, int64_t units, int64_t stride, T* out) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t unit = 0; unit < units; ++unit) out[row * units + unit] = in[unit * stride + row];
}

inline int64_t rows_of_block(int64_t batch, int64_t first) {
  return batch - first < kBlockRows ? batch - first : kBlockRows;
}

template <class T>
int64_t stride_of(int64_t rows) {
  return (rows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Where the values of a block begin, one after another.
template <class T, class Pointer>
MADE_FAST_INLINE Pointer split_block(const NetworkView& plan, Pointer first, int64_t stride, Pointer* starts) {
  for (int v = 0; v < plan.num_values; ++v) {
    starts[v] = first;
    first += plan.widths[v] * stride;
  }
  return first;
}

template <class T>
void forward_block(const NetworkTask<T>& task, int64_t first, T* block, T* room) {
  const NetworkView& plan = task.plan;
  const int last = plan.num_values - 1;
  const int64_t features = plan.widths[0], context = plan.widths[1], width = plan.widths[last];
  const int64_t rows = rows_of_block(task.batch, first), stride = stride_of<T>(rows);
  T* values[kMostValues];
  split_block<T>(plan, block, stride, values);
  rows_to_lanes<T>(task.x + first * features, rows, features, stride, values[0]);
  if (context > 0) rows_to_lanes<T>(task.context + first * context, rows, context, stride, values[1]);
  for (int v = 2; v <= last; ++v) {
    const NetworkOp& op = plan.ops[v - 2];
    const int64_t count = op.width * stride;
    if (op.kind == Kind::affine) {
      Summand<T> summands[kMostTerms];
      for (int i = 0; i < op.num_terms; ++i) {
        const NetworkTerm& term = plan.terms[op.first_term + i];
        summands[i] = {&term.forward, task.packed + term.forward.packed, values[term.source]};
      }
      const T* bias = op.bias < 0 ? nullptr : task.weights[op.bias];
      products<T>(summands, op.num_terms, op.width, stride, bias, false, values[v]);
    } else if (op.kind == Kind::unary) {
      apply<T>(op.function, values[op.left], values[v], count);
    } else if (op.kind == Kind::add) {
      add<T>(values[op.left], values[op.right], values[v], count);
    } else {
      times<T>(values[op.left], values[op.right], values[v], count);
    }
  }
  if (task.head == Head::parameters) {
    lanes_to_rows<T>(values[last], rows, width, stride, task.out + first * width);
    return;
  }
  T* z = room + stride;
  head_forward<T>(task.head, task.floor, features, stride, values[last], values[0], z, room);
  if (task.head == Head::affine) lanes_to_rows<T>(z, rows, features, stride, task.out + first * features);
  std::memcpy(task.total + first, room, static_cast<size_t>(rows) * sizeof(T));
}

// The rows of a block depend on nothing but themselves: threads take blocks as they come, and each row is the same
// whoever computes it.
template <class T>
Status network_forward(const NetworkTask<T>& task) {
  const NetworkView& plan = task.plan;
  for (int i = 0; i < plan.num_terms; ++i) {
    const NetworkTerm& term = plan.terms[i];
    pack_tiles<T>(term.forward, task.weights[term.weight], term.columns, 1, task.packed + term.forward.packed);
  }
  const int64_t blocks = network_blocks(task.batch), one = network_values(plan, 1);
#if defined(_OPENMP)
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  {
    const int thread = omp_get_thread_num();
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b)
      forward_block<T>(task, b * kBlockRows, task.values + (task.keep ? b : thread) * one,
                       task.room + thread * network_room(plan));
  }
#else
  for (int64_t b = 0; b < blocks; ++b)
    forward_block<T>(task, b * kBlockRows, task.values + (task.keep ? b * one : 0), task.room);
#endif
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
