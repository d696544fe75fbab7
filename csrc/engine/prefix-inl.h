// What all samples of one condition have in common: the variables that are observed before the first one that is drawn,
// and all that follows from them. Evaluated once, by the path for few rows; its sums, which hold all inputs known so
// far in the order in which a tile adds them, are where tiles and rows go on from.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/rows-inl.h"
#include "engine/scratch-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
struct Prefix {
  T* values;           // as in Row
  ApartSums<T> apart;  // likewise
  T* x;                // (D,) by number of the variable
  uint8_t* known;      // as in Row
  int64_t source;      // the condition
  const Step* next;    // the first step that is not shared
  int64_t num_drawn;   // variables before it
  double log_prob, log_weight;
  bool nan_seen;

  // How many leading slots of a list in order of time are finished.
  int64_t count_known(const int32_t* slots, int64_t count) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (known[slots[middle]] == kValue)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // How many of the leading quads of a list are observed.
  int32_t count_quads(const Plan<T>& plan, const int32_t* quads, int32_t most) const {
    int32_t count = 0;
    while (count < most && plan.quads[quads[count]].last < num_drawn) ++count;
    return count;
  }

  // How many of the variables that a panel looks up are observed.
  int32_t count_looked_up(const Plan<T>& plan, const Panel& panel) const {
    int32_t count = 0;
    while (count < panel.num_lookups && plan.lookups[panel.lookups + count].place < num_drawn) ++count;
    return count;
  }
};

// Where a prefix and the row that it is made with lie in scratch.
template <class T>
struct PrefixPositions {
  int64_t row, x, known, bytes;
  explicit PrefixPositions(const Plan<T>& plan) {
    Places places;
    row = places.add(RowPositions<T>(plan).bytes);
    x = places.add(plan.features * int64_t(sizeof(T)));
    known = places.add(plan.num_slots);
    bytes = places.size();
  }
};

// The prefix of the condition of a row.
template <class T>
Prefix<T> make_prefix(const Plan<T>& plan, const Request<T>& request, int64_t row, char* scratch) {
  const PrefixPositions<T> at(plan);
  Row<T> state = row_at(plan, request, row, scratch + at.row);
  Prefix<T> found{};
  found.values = state.values;
  found.apart = state.apart;
  found.x = reinterpret_cast<T*>(scratch + at.x);
  found.known = reinterpret_cast<uint8_t*>(scratch + at.known);
  found.source = request.source(row);
  std::memset(found.known, 0, static_cast<size_t>(plan.num_slots));
  state.known = found.known;
  state.begin(row);
  found.next = state.go_on(plan.steps, found.x, row, true);
  const bool at_end = found.next == plan.steps + plan.num_steps;
  found.num_drawn = at_end ? plan.features : found.next->first;
  state.drawing.read_sums(found.log_prob, found.log_weight);
  found.nan_seen = state.nan_seen || state.drawing.nan_seen();
  return found;
}

// One row, from its prefix or from the start.
template <class T>
bool draw_row(const Plan<T>& plan, const Request<T>& request, int64_t row, char* scratch, const Prefix<T>* prefix) {
  Row<T> state = row_at(plan, request, row, scratch);
  T* out = request.out + row * plan.features;
  const Step* step = plan.steps;
  if (prefix == nullptr) {
    state.begin(row);
  } else {
    std::memcpy(state.values, prefix->values, static_cast<size_t>(padded_slots(plan)) * sizeof(T));
    state.apart.copy(plan, prefix->apart);
    for (int64_t place = 0; place < prefix->num_drawn; ++place)
      out[plan.variables[place]] = prefix->x[plan.variables[place]];
    state.drawing.start_sums(prefix->log_prob, prefix->log_weight);
    step = prefix->next;
  }
  state.go_on(step, out, row, false);
  state.write_sums(row);
  return state.nan_seen || state.drawing.nan_seen();
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
