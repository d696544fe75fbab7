// The products of a tile of few rows: one vector lane is one unit, so that 2, 4 or 8 rows leave no lane idle.
//
// Every lane of every sum receives the same inputs in the same order, each rounded once, as where a lane is a row: the
// bits are the same. Panels that read one list of slots are multiplied together, as far as the first of them can be;
// the others go on from there when they are due.
#pragma once

#include <cstdint>
#include <cstring>

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
    int32_t first, end, columns;  // panels [first, end) have these leading columns
  };

  const Plan<T>& plan;
  int period;     // rows, 2, 4 or 8
  T* values;      // (slots, period) of finished slots
  T* sums;        // (num_affines, kSumsTogether, 8), by panel and by row
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

  // out (8, kLanes) = bias + sum over the columns of a panel, in all lanes.
  void multiply(int32_t affine, int32_t number, T* out) const {
    switch (period) {
      case 2:
        return multiply_rows<2>(affine, number, out);
      case 4:
        return multiply_rows<4>(affine, number, out);
      case 8:
        return multiply_rows<8>(affine, number, out);
    }
  }

 private:
  template <int R>
  void copy(int64_t first, int64_t count, const T* from, int stride) const {
    for (int64_t i = 0; i < count; ++i) std::memcpy(values + (first + i) * R, from + i * stride, R * sizeof(T));
  }

  template <int R>
  void multiply_rows(int32_t affine, int32_t number, T* out) const {
    Ahead& ahead = aheads[affine];
    if (number >= ahead.end) start<R>(affine, number, ahead);
    multiply_panels<R, kSumsTogether / R>(ahead, number, sums + int64_t(affine) * kSumsTogether * kPanelRows, out);
  }

  // Begins with panels from `number` on: those that read the same list, of which the first has the least.
  template <int R>
  void start(int32_t affine, int32_t number, Ahead& ahead) const {
    const AffineInfo& info = plan.affines[affine];
    const int32_t last = info.first_panel + (info.num_rows + kPanelRows - 1) / kPanelRows;
    ahead = {number, number + 1, 0};
    while (ahead.end < last && ahead.end < number + kSumsTogether / R) {
      const Panel &before = plan.panels[ahead.end - 1], &next = plan.panels[ahead.end];
      if (next.columns != before.columns || next.num_columns < before.num_columns) break;
      ++ahead.end;
    }
    const T* bias = plan.bias + info.first_slot + int64_t(number - info.first_panel) * kPanelRows;
    T* to = sums + int64_t(affine) * kSumsTogether * kPanelRows;
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
    spread<R>(sum, panel.num_rows, out);
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
