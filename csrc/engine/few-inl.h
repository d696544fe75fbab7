// The products of a tile of few rows: one vector lane is one unit, so that 2, 4 or 8 rows leave no lane idle.
//
// Every lane of every sum receives the same inputs in the same order, each rounded once, as where a lane is a row: the
// bits are the same. Panels that read one list of slots are multiplied together, as far as the first of them can be;
// the others go on from there when they are due.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/quads-inl.h"
#include "engine/scratch-inl.h"
#include "engine/simd-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

constexpr int kMostFew = 8;                                        // rows
constexpr int kSumsTogether = MADE_FAST_REGISTERS == 32 ? 16 : 8;  // vectors that hide how long a multiply-add takes

// Rows after which the lanes of a tile repeat: few rows fill them more than once.
MADE_FAST_INLINE int period_of(int rows, int lanes) {
  int period = 2;
  while (period < rows) period *= 2;
  return period <= kMostFew ? period : lanes;
}

template <class T>
struct FewRows {
  // Whether a panel fills no more than one register. Wider vectors would spill.
  static constexpr bool fits = kPanelRows * int(sizeof(T)) <= MADE_FAST_VECTOR_BYTES;
  typedef T Units __attribute__((vector_size(kPanelRows * sizeof(T))));
  typedef typename Simd<T>::Scalar Places __attribute__((vector_size(kPanelRows * sizeof(T))));

  // What of an affine operation is multiplied ahead.
  struct Ahead {
    int32_t first, end, columns, quads;  // panels [first, end) have these leading columns and quads
  };

  const Plan<T>& plan;
  int period;     // rows, 2, 4 or 8
  T* values;      // (slots, period) of finished slots
  T* sums;        // (num_affines, kSumsTogether, 8), by panel and by row
  T* quad_sums;   // the same of quads
  Ahead* aheads;  // (num_affines,)

  void begin() const { std::memset(aheads, 0, static_cast<size_t>(plan.num_affines) * sizeof(Ahead)); }

  // Takes over values (count, stride) that are finished, of the slots from `first` on.
  void publish(int64_t first, int64_t count, const T* from, int stride) const {
    switch (period) {
      case 2:
        return copy<2>(first, count, from, stride);
      case 4:
        return copy<4>(first, count, from, stride);
      case 8:
        return copy<8>(first, count, from, stride);
    }
  }

  // out (8, kLanes) = bias + sum over the columns of a panel, in all lanes; of_quads that over its quads.
  void multiply(int32_t affine, int32_t number, T* out, T* of_quads) const {
    switch (period) {
      case 2:
        return multiply_rows<2>(affine, number, out, of_quads);
      case 4:
        return multiply_rows<4>(affine, number, out, of_quads);
      case 8:
        return multiply_rows<8>(affine, number, out, of_quads);
    }
  }

 private:
  template <int R>
  void copy(int64_t first, int64_t count, const T* from, int stride) const {
    for (int64_t i = 0; i < count; ++i) std::memcpy(values + (first + i) * R, from + i * stride, R * sizeof(T));
  }

  template <int R>
  void multiply_rows(int32_t affine, int32_t number, T* out, T* of_quads) const {
    const int64_t kept = int64_t(affine) * kSumsTogether * kPanelRows;
    Ahead& ahead = aheads[affine];
    if (number >= ahead.end) start<R>(affine, number, ahead);
    const AffineInfo& info = plan.affines[affine];
    if (kHasQuads<T> && info.summed >= 0) {
      const int32_t* quads = plan.affine_quads + info.first_quad;
      add_quads<R>(ahead, number, quads, quad_sums + kept, of_quads);
    }
    multiply_panels<R, kSumsTogether / R>(ahead, number, sums + kept, out);
  }

  // Begins with panels from `number` on: those that read the same list, of which the first has the least.
  template <int R>
  void start(int32_t affine, int32_t number, Ahead& ahead) const {
    const AffineInfo& info = plan.affines[affine];
    const int32_t last = info.first_panel + (info.num_rows + kPanelRows - 1) / kPanelRows;
    ahead = {number, number + 1, 0, 0};
    while (ahead.end < last && ahead.end < number + kSumsTogether / R) {
      const Panel &before = plan.panels[ahead.end - 1], &next = plan.panels[ahead.end];
      if (next.columns != before.columns || next.num_columns < before.num_columns) break;
      ++ahead.end;
    }
    const T* bias = plan.bias + info.first_slot + int64_t(number - info.first_panel) * kPanelRows;
    T* to = sums + int64_t(affine) * kSumsTogether * kPanelRows;
    if (info.summed >= 0)
      std::memset(quad_sums + (to - sums), 0, static_cast<size_t>(kSumsTogether * kPanelRows) * sizeof(T));
    for (int32_t panel = number; panel < ahead.end; ++panel, bias += kPanelRows)
      for (int r = 0; r < R; ++r, to += kPanelRows) std::memcpy(to, bias, sizeof(Units));
  }

  // The first of P panels, or of fewer, has all that it needs; the others wait with what they have.
  template <int R, int P>
  void multiply_panels(Ahead& ahead, int32_t number, T* kept, T* out) const {
    if constexpr (P > 1) {
      if (ahead.end - number < P) return multiply_panels<R, P - 1>(ahead, number, kept, out);
    }
    Units sum[P * R];
    T* own = kept + int64_t(number - ahead.first) * R * kPanelRows;
#pragma GCC unroll 16
    for (int i = 0; i < P * R; ++i) std::memcpy(&sum[i], own + i * kPanelRows, sizeof sum[i]);
    const Panel& panel = plan.panels[number];
    const T* weights[P];
    for (int p = 0; p < P; ++p) weights[p] = plan.panel_weights + plan.panels[number + p].weights;
    const int32_t* columns = plan.panel_columns + panel.columns;
    for (int64_t c = ahead.columns; c < panel.num_columns; ++c) {
      const T* x = values + int64_t(columns[c]) * R;
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        Units weight;
        std::memcpy(&weight, weights[p] + c * kPanelRows, sizeof weight);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sum[p * R + r] += weight * x[r];
      }
    }
    ahead.columns = panel.num_columns;
#pragma GCC unroll 16
    for (int i = R; i < P * R; ++i) std::memcpy(own + i * kPanelRows, &sum[i], sizeof sum[i]);
    const int32_t* late = plan.panel_columns + panel.late_columns;
    for (int64_t c = 0; c < panel.num_late; ++c) {
      const T* x = values + int64_t(late[c]) * R;
      Units weight;
      std::memcpy(&weight, plan.panel_weights + panel.late_weights + c * kPanelRows, sizeof weight);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r] += weight * x[r];
    }
    spread<R>(sum, panel.num_rows, out);
  }

  // The same of their quads, of as many panels at once as registers hold beside the weights of a quad.
  template <int R>
  void add_quads(Ahead& ahead, int32_t number, const int32_t* quads, T* kept, T* out) const {
    constexpr int at_once = MADE_FAST_REGISTERS == 32 ? kSumsTogether / R : 1;
    const int32_t end = plan.panels[number].num_quads;
    T* own = kept + int64_t(number - ahead.first) * R * kPanelRows;
    for (int32_t panel = number; panel < ahead.end; panel += at_once)
      add_to_panels<R, at_once>(panel, ahead.end, quads, ahead.quads, end,
                                own + int64_t(panel - number) * R * kPanelRows);
    ahead.quads = end;
    Units sum[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) std::memcpy(&sum[r], own + r * kPanelRows, sizeof sum[r]);
    spread<R>(sum, plan.panels[number].num_rows, out);
  }

  template <int R, int P>
  void add_to_panels(int32_t number, int32_t last, const int32_t* quads, int32_t begin, int32_t end, T* own) const {
    if constexpr (P > 1) {
      if (last - number < P) return add_to_panels<R, P - 1>(number, last, quads, begin, end, own);
    }
    Units sum[P * R];
#pragma GCC unroll 16
    for (int i = 0; i < P * R; ++i) std::memcpy(&sum[i], own + i * kPanelRows, sizeof sum[i]);
    const T* weights[P];
    for (int p = 0; p < P; ++p) weights[p] = plan.panel_weights + plan.panels[number + p].quad_weights;
    for (int64_t q = begin; q < end; ++q) {
      const T* x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[i] = values + int64_t(plan.quads[quads[q]].slots[i]) * R;
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        Units weight[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)  // one by one: a copy of all would go through memory, in halves of a vector
          std::memcpy(&weight[i], weights[p] + q * kQuadWeights + i * kPanelRows, sizeof weight[i]);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const T of_row[4] = {x[0][r], x[1][r], x[2][r], x[3][r]};
          sum[p * R + r] += quad_input(weight, of_row);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < P * R; ++i) std::memcpy(own + i * kPanelRows, &sum[i], sizeof sum[i]);
  }

  // Sums by row to units by lane.
  template <int R>
  static void spread(const Units* sum, int num_rows, T* out) {
    Units square[kPanelRows];
#pragma GCC unroll 16
    for (int i = 0; i < kPanelRows; ++i) square[i] = sum[i % R];
    transpose_square<Units, Places, kPanelRows>(square);
#pragma GCC unroll 16
    for (int u = 0; u < kPanelRows; ++u)
      if (u < num_rows)
        for (int lane = 0; lane < kLanes<T>; lane += kPanelRows)
          std::memcpy(out + u * kLanes<T> + lane, &square[u], sizeof square[u]);
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
