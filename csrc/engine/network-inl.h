// A whole network forward and backward in one call: values of a block of rows stay in cache, a unit after the other,
// with the rows of the batch in lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/network_heads-inl.h"
#include "engine/simd-inl.h"
#include "plan/network.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// How the weights of a mask's tiles lie: number of unit u and column c is at u * row_stride + c * column_stride.
struct Strides {
  int64_t row, column;
};

// Weights of the columns that only some rows of a tile read, four for each, zero where the mask is.
template <class T>
void pack_tiles(const TileView& tiles, const T* weight, Strides strides, T* packed) {
  for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const T* rows = weight + tile * kUnitsAtOnce * strides.row;
    for (int64_t i = tiles.some.starts[tile]; i < tiles.some.starts[tile + 1]; ++i) {
      const T* column = rows + tiles.some.columns[i] * strides.column;
      const int bits = tiles.bits[i];
      for (int r = 0; r < kUnitsAtOnce; ++r)
        packed[i * kUnitsAtOnce + r] = bits >> r & 1 ? column[r * strides.row] : T(0);
    }
  }
}

// sum[r][v] += weights times source, for `count` columns, kVecs vectors of rows; weight(r, i) is that of the i-th
// column.
template <class T, int kVecs, class Weight>
MADE_FAST_INLINE void multiply_tile(Vec<T> (&sum)[kUnitsAtOnce][kVecs], const int32_t* columns, int64_t count,
                                    const T* source, int64_t stride, const Weight& weight) {
  for (int64_t i = 0; i < count; ++i) {
    const T* values = source + columns[i] * stride;
    Vec<T> value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = load<T>(values + v * kLanes<T>);
    for (int r = 0; r < kUnitsAtOnce; ++r) {
      const Vec<T> factor = splat<T>(weight(r, i));
      for (int v = 0; v < kVecs; ++v) sum[r][v] = factor * value[v] + sum[r][v];
    }
  }
}

// One side of a product: weights times a value.
template <class T>
struct Summand {
  const TileView* tiles;
  const T* weight;
  Strides strides;
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
    const Summand<T>& summand = summands[s];
    const ColumnView &all = summand.tiles->all, &some = summand.tiles->some;
    const T* weights[kUnitsAtOnce];
    for (int r = 0; r < kUnitsAtOnce; ++r)
      weights[r] = summand.weight + (unit + r < rows ? unit + r : rows - 1) * summand.strides.row;
    const T* source = summand.source + first;
    const int32_t* columns = all.columns + all.starts[tile];
    multiply_tile<T, kVecs>(sum, columns, all.starts[tile + 1] - all.starts[tile], source, stride,
                            [&](int r, int64_t i) { return weights[r][columns[i] * summand.strides.column]; });
    const T* packed = summand.packed + some.starts[tile] * kUnitsAtOnce;
    multiply_tile<T, kVecs>(sum, some.columns + some.starts[tile], some.starts[tile + 1] - some.starts[tile], source,
                            stride, [&](int r, int64_t i) { return packed[i * kUnitsAtOnce + r]; });
  }
  for (int r = 0; r < kUnitsAtOnce && unit + r < rows; ++r)
    for (int v = 0; v < kVecs; ++v) store<T>(out + (unit + r) * stride + first + v * kLanes<T>, sum[r][v]);
}

// out (rows, stride) = bias + sum of products, or += without a bias.
template <class T>
void products(const Summand<T>* summands, int count, int64_t rows, int64_t stride, const T* bias, bool add, T* out) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int most = MADE_FAST_REGISTERS / (2 * kUnitsAtOnce);  // half of the registers hold sums
  const int64_t tiles = (rows + kUnitsAtOnce - 1) / kUnitsAtOnce;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int64_t first = 0;
    for (; first + most * lanes <= stride; first += most * lanes)
      tile_sums<T, most>(summands, count, tile, rows, stride, first, bias, add, out);
    for (; first < stride; first += lanes) tile_sums<T, 1>(summands, count, tile, rows, stride, first, bias, add, out);
  }
}

// Columns [begin, end) of those that all units of a tile read, for all rows; behind them those that some read, if these
// were the last. near (columns, kUnitsAtOnce) are their weights.
template <class T, int kVecs>
MADE_FAST_INLINE void tile_part(const Summand<T>& summand, int64_t tile, int64_t begin, int64_t end, const T* near,
                                int64_t rows, int64_t stride, int64_t first, bool add, T* out) {
  const ColumnView &all = summand.tiles->all, &some = summand.tiles->some;
  const int64_t unit = tile * kUnitsAtOnce;
  Vec<T> sum[kUnitsAtOnce][kVecs] = {};
  for (int r = 0; r < kUnitsAtOnce && add && unit + r < rows; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r][v] = load<T>(out + (unit + r) * stride + first + v * kLanes<T>);
  const T* source = summand.source + first;
  multiply_tile<T, kVecs>(sum, all.columns + begin, end - begin, source, stride,
                          [&](int r, int64_t i) { return near[i * kUnitsAtOnce + r]; });
  if (end == all.starts[tile + 1]) {
    const T* packed = summand.packed + some.starts[tile] * kUnitsAtOnce;
    multiply_tile<T, kVecs>(sum, some.columns + some.starts[tile], some.starts[tile + 1] - some.starts[tile], source,
                            stride, [&](int r, int64_t i) { return packed[i * kUnitsAtOnce + r]; });
  }
  for (int r = 0; r < kUnitsAtOnce && unit + r < rows; ++r)
    for (int v = 0; v < kVecs; ++v) store<T>(out + (unit + r) * stride + first + v * kLanes<T>, sum[r][v]);
}

// Whether what lies below one another in a matrix falls into a few places of the first cache, and is read so often that
// bringing it together pays: wider vectors read it less often.
template <class T>
bool lie_far_apart(int64_t columns, int64_t rows_read) {
  return MADE_FAST_VECTOR_BYTES <= 32 && rows_read >= 48 && columns * int64_t(sizeof(T)) % 4096 == 0;
}

// As products of one term without a bias, with the same sums, for weights that lie so far apart that the first cache
// has few places for them: they are brought together for all rows.
template <class T>
void products_of_far(const Summand<T>& summand, int64_t rows, int64_t stride, bool add, T* out) {
  constexpr int64_t lanes = kLanes<T>, most_columns = 256;
  constexpr int most = MADE_FAST_REGISTERS / (2 * kUnitsAtOnce);
  alignas(kAlign) T near[most_columns * kUnitsAtOnce];
  const ColumnView& all = summand.tiles->all;
  for (int64_t unit = 0, tile = 0; unit < rows; unit += kUnitsAtOnce, ++tile) {
    const int64_t last = all.starts[tile + 1];
    bool adds = add;
    for (int64_t begin = all.starts[tile]; begin < last || begin == all.starts[tile];
         begin += most_columns, adds = true) {
      const int64_t end = last - begin < most_columns ? last : begin + most_columns;
      for (int64_t i = begin; i < end; ++i)
        for (int r = 0; r < kUnitsAtOnce; ++r)
          near[(i - begin) * kUnitsAtOnce + r] =
              summand.weight[(unit + r < rows ? unit + r : rows - 1) * summand.strides.row +
                             all.columns[i] * summand.strides.column];
      int64_t first = 0;
      for (; first + most * lanes <= stride; first += most * lanes)
        tile_part<T, most>(summand, tile, begin, end, near, rows, stride, first, adds, out);
      for (; first < stride; first += lanes)
        tile_part<T, 1>(summand, tile, begin, end, near, rows, stride, first, adds, out);
    }
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

inline int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

template <class T>
int64_t stride_of(int64_t rows) {
  return (rows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// One network of a call: its weights and packed ones among those of all.
template <class T>
struct Place {
  const NetworkView* network;
  const T* const* weights;
  T* const* grad_weights;
  T* packed;
  int64_t values;  // units of a block before its own
};

// Networks one after another, from the first; `packed_of` says how much each of them packs.
template <class T>
void places_of(const NetworkTask<T>& task, int64_t NetworkView::* packed_of, Place<T>* places) {
  Place<T> next{nullptr, task.weights, task.grad_weights, task.packed, 0};
  for (int k = 0; k < task.num_networks; ++k) {
    const NetworkView& network = *task.networks[k];
    places[k] = next;
    places[k].network = &network;
    next.weights += network.num_weights;
    if (next.grad_weights != nullptr) next.grad_weights += network.num_weights;
    next.packed += network.*packed_of;
    next.values += network.value_units;
  }
}

// The values of one network in a block, whose first network begins at `block`; all read the context of that one.
template <class T>
struct Values {
  const NetworkView* network;
  T* block;
  int64_t before, stride;
  MADE_FAST_INLINE T* operator[](int v) const { return block + ((v == 1 ? 0 : before) + network->values[v]) * stride; }
};

template <class T>
void run_network(const Place<T>& place, int64_t stride, const Values<T>& values) {
  const NetworkView& network = *place.network;
  for (int v = 2; v < network.num_values; ++v) {
    const NetworkOp& op = network.ops[v - 2];
    const int64_t count = op.width * stride;
    if (op.kind == Kind::affine) {
      Summand<T> summands[kMostTerms];
      for (int i = 0; i < op.num_terms; ++i) {
        const NetworkTerm& term = network.terms[op.first_term + i];
        summands[i] = {&term.forward,
                       place.weights[term.weight],
                       {term.columns, 1},
                       place.packed + term.forward.packed,
                       values[term.source]};
      }
      const T* bias = op.bias < 0 ? nullptr : place.weights[op.bias];
      products<T>(summands, op.num_terms, op.width, stride, bias, false, values[v]);
    } else if (op.kind == Kind::unary) {
      apply<T>(op.function, values[op.left], values[v], count);
    } else if (op.kind == Kind::add) {
      add<T>(values[op.left], values[op.right], values[v], count);
    } else {
      times<T>(values[op.left], values[op.right], values[v], count);
    }
  }
}

template <class T>
void forward_block(const NetworkTask<T>& task, const Place<T>* places, int64_t first, T* block, T* room) {
  const int64_t features = places[0].network->widths[0], context = places[0].network->widths[1];
  const int64_t rows = rows_of_block(task.batch, first), stride = stride_of<T>(rows);
  T *total = room, *z = room + stride;
  const Values<T> at_first = {places[0].network, block, 0, stride};
  rows_to_lanes<T>(task.x + first * features, rows, features, stride, at_first[0]);
  if (context > 0) rows_to_lanes<T>(task.context + first * context, rows, context, stride, at_first[1]);
  std::memset(total, 0, static_cast<size_t>(stride) * sizeof(T));
  for (int k = 0; k < task.num_networks; ++k) {
    const NetworkView& network = *places[k].network;
    const int last = network.num_values - 1;
    const Values<T> values = {&network, block, places[k].values, stride};
    run_network<T>(places[k], stride, values);
    const bool is_last = k == task.num_networks - 1;
    if (task.head == Head::parameters) {
      lanes_to_rows<T>(values[last], rows, network.widths[last], stride, task.out + first * network.widths[last]);
      return;
    }
    T* to = is_last ? z : block + places[k + 1].values * stride;
    if (task.head == Head::categorical)
      categories_forward<T>(network.categories, network.num_categorical, stride, values[last], values[0], total);
    else
      head_forward<T>(head_of<T>(task, k, stride, values[last], values[0]), task.places[k], to, total);
  }
  if (makes_z(task.head)) lanes_to_rows<T>(z, rows, features, stride, task.out + first * features);
  std::memcpy(task.total + first, total, static_cast<size_t>(rows) * sizeof(T));
}

// The rows of a block depend on nothing but themselves: threads take blocks as they come, and each row is the same
// whoever computes it.
template <class T>
Status network_forward(const NetworkTask<T>& task) {
  Place<T> places[kMostNetworks] = {};
  places_of<T>(task, &NetworkView::packed_forward, places);
  for (int k = 0; k < task.num_networks; ++k) {
    const NetworkView& network = *places[k].network;
    for (int i = 0; i < network.num_terms; ++i) {
      const NetworkTerm& term = network.terms[i];
      pack_tiles<T>(term.forward, places[k].weights[term.weight], {term.columns, 1},
                    places[k].packed + term.forward.packed);
    }
  }
  const int64_t blocks = network_blocks(task.batch), one = network_values(task), room = network_room(task);
#pragma omp parallel for num_threads(task.num_threads) if (task.num_threads > 1) schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    const int thread = thread_number();
    forward_block<T>(task, places, b * kBlockRows, task.values + (task.keep ? b : thread) * one,
                     task.room + thread * room);
  }
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
