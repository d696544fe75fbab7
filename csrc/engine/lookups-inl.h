// One-hot variables of a tile: no zeros and no products, the weights of the category that each row drew are added.
//
// Their sums are kept apart from those of products and added when a unit is finished; the path for few rows does the
// same.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/by_rows-inl.h"
#include "engine/few-inl.h"
#include "engine/isa-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

using LookupCode = uint32_t;  // where the weights of a category start, in bytes; see check.cpp

// An affine operation that looks up, and its panel that is being summed up.
struct OpenPanel {
  int32_t known;   // variables of it that have been added
  int32_t turned;  // those in the sums by units
};

template <class T, int NV>
struct OpenPanels {
  static constexpr int lanes = NV * kLanes<T>;
  using Rows = ByRows<T, lanes>;

  const Plan<T>& plan;
  T* by_rows;         // (num_open, lanes, 8)
  T* by_units;        // (num_open, 8, lanes)
  OpenPanel* open;    // (num_open,)
  LookupCode* codes;  // (D, lanes), in the order of drawing
  int rows;           // after which lanes repeat, a power of two; or all lanes

  // Called when a variable is drawn that is looked up; x (lanes,) categories.
  void take(int32_t place, const T* x) const {
    LookupCode* to = codes + int64_t(place) * lanes;
    for (int lane = 0; lane < lanes; ++lane) to[lane] = static_cast<LookupCode>(x[lane]) * Rows::unit_bytes;
  }

  // Begins with a panel, at the sums (8,) of its leading `known` variables; null for none.
  void start(int32_t number, int32_t known, const T* sums) const {
    open[number] = {known, -1};
    T* to = by_rows + int64_t(number) * lanes * kPanelRows;
    if (sums == nullptr) return void(std::memset(to, 0, size_t{lanes} * Rows::unit_bytes));
    for (int lane = 0; lane < lanes; ++lane) std::memcpy(to + lane * kPanelRows, sums, Rows::unit_bytes);
  }

  // (lanes,): what the variables add that a unit of the panel looks up; `index` is its place in there.
  const T* sums_of(int32_t number, const Panel& panel, int64_t unit, int index) const {
    OpenPanel& own = open[number];
    const int64_t first = int64_t(number) * lanes * kPanelRows;
    add(panel, plan.num_lookups[unit], own, by_rows + first);
    T* out = by_units + first;
    if (own.turned != own.known) {
      if (index + 1 < panel.num_rows && plan.num_lookups[unit + 1] <= own.known) {
        Rows::by_units(by_rows + first, row_mask(), out);
        own.turned = own.known;
      } else {
        Rows::by_unit(by_rows + first, row_mask(), index, out + index * lanes);
      }
    }
    return out + index * lanes;
  }

 private:
  int row_mask() const { return rows == lanes ? kEveryRow : rows - 1; }

  // Adds the variables up to number `end` of a panel.
  void add(const Panel& panel, int32_t end, OpenPanel& own, T* sums) const {
    const T* tables[kTablesAtOnce];
    const LookupCode* of_rows[kTablesAtOnce];
    while (own.known < end) {
      int count = 0;
      for (; own.known < end && count < kTablesAtOnce; ++own.known, ++count) {
        const Lookup& lookup = plan.lookups[panel.lookups + own.known];
        tables[count] = plan.lookup_weights + panel.lookup_weights + lookup.weights;
        of_rows[count] = codes + int64_t(lookup.place) * lanes;
      }
      add(tables, of_rows, count, sums);
    }
  }

  void add(const T* const* tables, const LookupCode* const* of_rows, int count, T* sums) const {
    if constexpr (NV == 1 && lanes >= kMostFew) {
      if (rows == 2 && lanes > 2) return ByRows<T, 2>::add(tables, of_rows, count, sums);
      if (rows == 4 && lanes > 4) return ByRows<T, 4>::add(tables, of_rows, count, sums);
      if (rows == 8 && lanes > 8) return ByRows<T, 8>::add(tables, of_rows, count, sums);
    }
    Rows::add(tables, of_rows, count, sums);
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
