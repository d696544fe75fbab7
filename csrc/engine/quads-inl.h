// Four binary variables in one step: their input to a unit is one of sixteen sums.
//
// The sums of a unit's quads are kept apart from those of its columns and added when it is finished. One input is
// ((w0 x0 + w1 x1) + w2 x2) + w3 x3, in which products are exact: whether it is found in a table, by products or by
// rows that skip zeros, the bits are the same.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/by_rows-inl.h"
#include "engine/panel-inl.h"
#include "engine/simd-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// As Layout::list_quads: in fp64 a table takes twice the room, and products take no longer.
template <class T>
constexpr bool kHasQuads = sizeof(T) == 4;
constexpr int kQuadWeights = 4 * kPanelRows;  // of a panel
constexpr int kQuadInputs = 16;
using QuadCode = uint16_t;  // which of the inputs

// The input of some units, from weights and values of the four variables.
template <class Units, class Value>
MADE_FAST_INLINE Units quad_input(const Units (&w)[4], const Value (&x)[4]) {
  return ((w[0] * x[0] + w[1] * x[1]) + w[2] * x[2]) + w[3] * x[3];
}

// Quads of some units and the codes of all rows.
template <class T>
struct PanelQuads {
  const T* weights;       // of the first quad of the operation; 4 x 8 each
  const int32_t* quads;   // of the operation
  const QuadCode* codes;  // (num_quads, lanes)
  const int32_t* places;  // which of them count
  int64_t count;
};

// The sums of one panel for a tile of NV vectors of rows.
template <class T, int NV>
class QuadSums {
 public:
  static constexpr int lanes = NV * kLanes<T>;

  // The codes of all lanes, from the values (lanes,) of each variable; whether any is not 0.
  static bool encode(const T* const* x, QuadCode* codes) {
    Int<T> any{};
    for (int start = 0; start < lanes; start += kLanes<T>) {
      Int<T> code{};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) code |= (load<T>(x[i] + start) > T(0)) & Scalar(Scalar(1) << (i + shift));
      for (int lane = 0; lane < kLanes<T>; ++lane) codes[start + lane] = static_cast<QuadCode>(code[lane]);
      any |= code;
    }
    return any_lane<T>(any != 0);
  }

  // out (8, lanes) = what each unit starts from + the inputs of quads.
  static void sum(const PanelQuads<T>& from, bool spins, const T* start, T* tables, T* out) {
    spins ? find_sums<true>(from, start, tables, out) : find_sums<false>(from, start, tables, out);
  }

 private:
  using Scalar = typename Simd<T>::Scalar;

  template <bool spins>
  static void find_sums(const PanelQuads<T>& from, const T* start, T* tables, T* out) {
    if constexpr (kPermutes)
      by_permutes<spins>(from, start, out);
    else
      by_rows<spins>(from, start, tables, out);
  }

  static const QuadCode* codes_of(const PanelQuads<T>& from, int64_t i) {
    return from.codes + int64_t(from.quads[from.places[i]]) * lanes;
  }

  using Rows = ByRows<T, lanes>;
  using Units = typename Rows::Units;
  static constexpr int parts = Rows::parts, part_units = Rows::part_units;

#if defined(__AVX512F__)
  // A table of sixteen fills a register. It serves vectors of rows, so it pays for many of them.
  static constexpr bool kPermutes = sizeof(T) == 4;
#else
  static constexpr bool kPermutes = false;
#endif
  // Codes are kept as bytes from the first input of a table, or as its lane.
  static constexpr int shift = kPermutes ? 0 : Rows::unit_bytes == 64 ? 6 : 5;
  static_assert(kPermutes || Rows::unit_bytes == 1 << shift, "codes count in inputs of a panel");

  // All sixteen inputs of a panel, (16, 8).
  template <bool spins>
  static MADE_FAST_INLINE void make_table(const T* weights, T* table) {
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part, weights += part_units, table += part_units) {
      Units input[kQuadInputs];
      input[0] = Units{};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        Units w;
        std::memcpy(&w, weights + i * kPanelRows, sizeof w);
#pragma GCC unroll 8
        for (int code = 0; code < 1 << i; ++code) {
          input[code + (1 << i)] = i == 0 ? w : input[code] + w;
          if (spins) input[code] = i == 0 ? -w : input[code] - w;
        }
      }
#pragma GCC unroll 16
      for (int code = 0; code < kQuadInputs; ++code)
        std::memcpy(table + code * kPanelRows, &input[code], sizeof input[code]);
    }
  }

  // Row by row: the inputs of 8 units lie side by side in a table.
  template <bool spins>
  static MADE_FAST_NOINLINE void by_rows(const PanelQuads<T>& from, const T* start, T* tables, T* out) {
    alignas(kAlign) T sums[lanes * kPanelRows];
    for (int lane = 0; lane < lanes; ++lane) std::memcpy(sums + lane * kPanelRows, start, Rows::unit_bytes);
    for (int64_t begin = 0; begin < from.count; begin += kTablesAtOnce) {
      const int here = static_cast<int>(from.count - begin < kTablesAtOnce ? from.count - begin : kTablesAtOnce);
      const T* ready[kTablesAtOnce];
      const QuadCode* codes[kTablesAtOnce];
      for (int i = 0; i < here; ++i) {
        T* table = tables + i * kQuadInputs * kPanelRows;
        make_table<spins>(from.weights + from.places[begin + i] * kQuadWeights, table);
        ready[i] = table;
        codes[i] = codes_of(from, begin + i);
      }
      Rows::add(ready, codes, here, sums);
    }
    Rows::by_units(sums, kEveryRow, out);
  }

#if defined(__AVX512F__)
  typedef QuadCode NarrowCodes __attribute__((vector_size(kLanes<T> * sizeof(QuadCode))));

  // x of variable i, for each input.
  template <bool spins>
  static MADE_FAST_INLINE Vec<T> values_of(int i) {
    Vec<T> x;
#pragma GCC unroll 16
    for (int input = 0; input < kQuadInputs; ++input) x[input] = input >> i & 1 ? T(1) : spins ? T(-1) : T(0);
    return x;
  }

  // Unit by unit: the table is a register, its lanes are picked by codes.
  template <bool spins>
  static MADE_FAST_NOINLINE void by_permutes(const PanelQuads<T>& from, const T* start, T* out) {
    const Vec<T> x[4] = {values_of<spins>(0), values_of<spins>(1), values_of<spins>(2), values_of<spins>(3)};
    Vec<T> sum[kPanelRows][NV];
    fill<T, kPanelRows, NV>(sum, start);
    for (int i = 0; i < from.count; ++i) {
      const T* weights = from.weights + from.places[i] * kQuadWeights;
      Int<T> code[NV];
      const QuadCode* codes = codes_of(from, i);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) {
        NarrowCodes narrow;
        std::memcpy(&narrow, codes + v * kLanes<T>, sizeof narrow);
        code[v] = __builtin_convertvector(narrow, Int<T>);
      }
#pragma GCC unroll 8
      for (int u = 0; u < kPanelRows; ++u) {
        const T w[4] = {weights[u], weights[kPanelRows + u], weights[2 * kPanelRows + u], weights[3 * kPanelRows + u]};
        const Vec<T> table = ((x[0] * w[0] + x[1] * w[1]) + x[2] * w[2]) + x[3] * w[3];
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v)
          sum[u][v] +=
              bits_as<Vec<T>>(_mm512_maskz_permutexvar_ps(0xffff, bits_as<__m512i>(code[v]), bits_as<__m512>(table)));
      }
    }
#pragma GCC unroll 8
    for (int u = 0; u < kPanelRows; ++u) store_sums<T, NV>(sum[u], out + u * lanes);
  }
#else
  template <bool spins>
  static void by_permutes(const PanelQuads<T>&, const T*, T*);
#endif
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
