// The micro-kernel that everything is made of: a panel of units times some vectors of rows, summed in registers over
// many columns.
#pragma once

#include <cstdint>

#include "engine/simd-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Register tile: kUnits<NV> x NV accumulators, NV inputs and one weight fill the register file.
constexpr int kTileVectors = MADE_FAST_REGISTERS == 32 || MADE_FAST_VECTOR_BYTES > 16 ? 3 : 2;
template <int NV>
constexpr int kUnits = MADE_FAST_REGISTERS == 32 || NV == 1 ? kPanelRows : kPanelRows / 2;

template <class T>
constexpr int whole_vectors(int rows) {
  return (rows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T, int U, int NV>
MADE_FAST_INLINE void fill(Vec<T> (&sum)[U][NV], const T* start) {
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) sum[u][v] = splat<T>(start[u]);
}

template <class T, int NV>
MADE_FAST_INLINE void load_sums(Vec<T> (&sum)[NV], const T* from) {
#pragma GCC unroll 3
  for (int v = 0; v < NV; ++v) sum[v] = load<T>(from + v * kLanes<T>);
}

template <class T, int NV>
MADE_FAST_INLINE void add_sums(Vec<T> (&sum)[NV], const T* from) {
#pragma GCC unroll 3
  for (int v = 0; v < NV; ++v) sum[v] += load<T>(from + v * kLanes<T>);
}

template <class T, int NV>
MADE_FAST_INLINE void store_sums(const Vec<T> (&sum)[NV], T* to) {
#pragma GCC unroll 3
  for (int v = 0; v < NV; ++v) store<T>(to + v * kLanes<T>, sum[v]);
}

// Where the weight of unit u in column c is: packed, side by side for each column ...
template <class T>
struct PackedWeights {
  const T* first;
  int64_t column_stride;
  MADE_FAST_INLINE T operator()(int64_t c, int u) const { return first[c * column_stride + u]; }
};
// ... or those of some places of these ...
template <class T>
struct PlacedWeights {
  const T* first;
  const int32_t* places;  // column number c is the one at places[c]
  int64_t column_stride;
  MADE_FAST_INLINE T operator()(int64_t c, int u) const { return first[places[c] * column_stride + u]; }
};
// ... or where they are in a matrix, in any of its rows and columns.
template <class T, int U>
struct WeightsInPlace {
  const T* row[U];
  const int32_t *places, *columns;  // column number c is columns[places[c]]
  int64_t column_stride;
  MADE_FAST_INLINE T operator()(int64_t c, int u) const { return row[u][columns[places[c]] * column_stride]; }
};

// sum[u][v] += weight(c, u) * input(c)[v] over all columns c.
template <class T, int U, int NV, class Weight, class Input>
MADE_FAST_INLINE void accumulate(Vec<T> (&sum)[U][NV], const Weight& weight, int64_t num_columns, const Input& input) {
  for (int64_t c = 0; c < num_columns; ++c) {
    const T* values = input(c);
    Vec<T> x[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) x[v] = load<T>(values + v * kLanes<T>);
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) sum[u][v] += weight(c, u) * x[v];
  }
}

// Packed columns of some units, the slots that they multiply, and the places of those that count; null for all.
template <class T>
struct Columns {
  const T* weights;
  const int32_t *slots, *places;
  int64_t count;
};

// out[0 .. kept) = (bias, or what out holds if it is null) + sum over columns of weight * input, for U units at a time
// in registers. `table` holds NV vectors of each slot; the units are those from `part` on.
template <class T, int U, int NV>
MADE_FAST_INLINE void multiply_columns(const Columns<T>& early, const Columns<T>& late, int weights_per_column,
                                       int part, const T* bias, const T* table, T* out, int kept) {
  constexpr int stride = NV * kLanes<T>;
  Vec<T> sum[U][NV] = {};
  if (bias != nullptr) {
    fill<T, U, NV>(sum, bias);
  } else {
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u)
      if (u < kept) load_sums<T, NV>(sum[u], out + u * stride);
  }
  if (early.places != nullptr)
    accumulate<T, U, NV>(sum, PlacedWeights<T>{early.weights + part, early.places, weights_per_column}, early.count,
                         [&](int64_t c) { return table + int64_t(early.slots[early.places[c]]) * stride; });
  for (int pass = early.places != nullptr; pass < 2; ++pass) {
    const Columns<T>& columns = pass == 0 ? early : late;
    accumulate<T, U, NV>(sum, PackedWeights<T>{columns.weights + part, weights_per_column}, columns.count,
                         [&](int64_t c) { return table + int64_t(columns.slots[c]) * stride; });
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u)
    if (u < kept) store_sums<T, NV>(sum[u], out + u * stride);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
