// One-hot variables of a tile: no zeros and no products, the weights of the category that each row drew are added.
//
// The sums lie row by row, 8 units of one panel side by side, since every row adds another column of weights. They are
// kept apart from the sums of products and added when a unit is finished; the path for few rows does the same.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/isa-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Adds to the sums (lanes, 8) of a panel what one variable contributes; weights (size, 8), x (lanes,) categories.
template <class T>
MADE_FAST_INLINE void add_lookup(const T* weights, const T* x, int lanes, T* sums) {
  typedef T Units __attribute__((vector_size(kPanelRows * sizeof(T))));
#pragma GCC unroll 8
  for (int lane = 0; lane < lanes; ++lane) {
    Units sum, weight;
    std::memcpy(&sum, sums + lane * kPanelRows, sizeof sum);
    std::memcpy(&weight, weights + static_cast<int64_t>(x[lane]) * kPanelRows, sizeof weight);
    sum += weight;
    std::memcpy(sums + lane * kPanelRows, &sum, sizeof sum);
  }
}

// The panels that are being summed up, one for each affine operation that looks up.
template <class T>
struct OpenPanels {
  T* sums;         // (num_open, lanes, 8)
  int32_t* known;  // (num_open,) variables of the panel that have been added
  int lanes;

  static int64_t bytes_of_sums(const Plan<T>& plan, int lanes) {
    return plan.num_open * lanes * kPanelRows * int64_t(sizeof(T));
  }

  T* sums_of(int32_t open) const { return sums + int64_t(open) * lanes * kPanelRows; }

  void start(int32_t open) const {
    known[open] = 0;
    std::memset(sums_of(open), 0, static_cast<size_t>(lanes * kPanelRows) * sizeof(T));
  }

  // Adds the variables up to number `end` of the panel. `drawn` (D, lanes): variables in the order of drawing.
  void advance(const Plan<T>& plan, const Panel& panel, int32_t open, int32_t end, const T* drawn) const {
    for (; known[open] < end; ++known[open]) {
      const Lookup& lookup = plan.lookups[panel.lookups + known[open]];
      add_lookup<T>(plan.lookup_weights + panel.lookup_weights + lookup.weights, drawn + int64_t(lookup.place) * lanes,
                    lanes, sums_of(open));
    }
  }

  // Adds the sums of one unit of the panel to `own` (lanes,).
  void add_to(int32_t open, int unit, T* own) const {
    const T* from = sums_of(open) + unit;
    for (int lane = 0; lane < lanes; ++lane) own[lane] += from[lane * kPanelRows];
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
