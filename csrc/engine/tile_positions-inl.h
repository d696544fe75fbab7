// How many rows a tile has, and where things lie in its scratch.
#pragma once

#include <cstdint>

#include "engine/drawing-inl.h"
#include "engine/few-inl.h"
#include "engine/lookups-inl.h"
#include "engine/noise-inl.h"
#include "engine/nonzero-inl.h"
#include "engine/panel-inl.h"
#include "engine/quads-inl.h"
#include "engine/scratch-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
constexpr int kTileRows = kTileVectors * kLanes<T>;
template <class T>
constexpr int kWidest = kPhiloxLanes * ((kTileRows<T> + kPhiloxLanes - 1) / kPhiloxLanes);  // rows, in whole counters

template <class T>
constexpr int kLimits =
    4 * kWidest<T> > 2 * kPhiloxLanes* kPhiloxLanes ? 4 * kWidest<T> : 2 * kPhiloxLanes * kPhiloxLanes;

// Where things lie in the scratch of a tile: the table (and that of pairs, and of few rows with its sums), what was
// drawn where that is not in the table, the parameters of one variable, the sums of look-ups and of quads, thresholds,
// log-probabilities.
template <class T>
struct TilePositions {
  int64_t table, pairs, few, few_sums, few_quads, aheads, drawn, params, looked, turned, open, lookup_codes;
  int64_t quad_sums, quad_codes, quad_tables;
  int64_t lit_slots, lit_quads, limits, log_prob, drawing, bytes;

  // In smaller networks looking for zeros takes longer than multiplying them.
  static bool skips_zeros(const Plan<T>& plan) { return plan.macs >= 1 << 18; }
  static Nonzero::Sizes lit_slots_of(const Plan<T>& plan) {
    return {plan.num_slots, skips_zeros(plan) ? plan.num_affines : 0, plan.most_columns};
  }
  static Nonzero::Sizes lit_quads_of(const Plan<T>& plan) {
    return {plan.num_quads, skips_zeros(plan) ? plan.num_summed : 0, plan.num_quads};
  }

  TilePositions(const Plan<T>& plan, int lanes) {
    using Few = FewRows<T>;
    const bool has_few = Few::fits && lanes == kLanes<T> && plan.pair_weights == nullptr;
    const int64_t affines = has_few ? plan.num_affines : 0;
    const auto rows = [lanes](int64_t count) { return count * lanes * int64_t(sizeof(T)); };
    Places places;
    table = places.add(rows(plan.first_param + plan.ring));
    pairs = places.add(plan.pair_weights == nullptr ? 0 : rows((plan.first_param + plan.ring + 1) / 2));
    few = places.add(has_few ? (plan.first_param + plan.ring) * kMostFew * int64_t(sizeof(T)) : 0);
    few_sums = places.add(affines * kSumsTogether * kPanelRows * int64_t(sizeof(T)));
    few_quads = places.add(affines * kSumsTogether * kPanelRows * int64_t(sizeof(T)));
    aheads = places.add(affines * int64_t(sizeof(typename Few::Ahead)));
    drawn = places.add(plan.in_place ? 0 : rows(plan.features));
    params = places.add(plan.in_place ? 0 : rows(plan.most_params));
    looked = places.add(rows(plan.num_open * kPanelRows));
    turned = places.add(rows(plan.num_open * kPanelRows));
    open = places.add(plan.num_open * int64_t(sizeof(OpenPanel)));
    lookup_codes = places.add(plan.num_open == 0 ? 0 : plan.features * lanes * int64_t(sizeof(LookupCode)));
    quad_sums = places.add(rows(plan.num_summed * kPanelRows));
    quad_codes = places.add(plan.num_summed == 0 ? 0 : plan.num_quads * lanes * int64_t(sizeof(QuadCode)));
    quad_tables = places.add(plan.num_summed == 0 ? 0 : kTablesAtOnce * kQuadInputs * kPanelRows * int64_t(sizeof(T)));
    lit_slots = places.add(Nonzero::Positions(lit_slots_of(plan)).bytes);
    lit_quads = places.add(Nonzero::Positions(lit_quads_of(plan)).bytes);
    limits = places.add(kLimits<T> * int64_t(sizeof(T)));
    log_prob = places.add(kWidest<T> * int64_t(sizeof(double)));
    drawing = places.add(Drawing<T>::bytes(plan, lanes));
    bytes = places.size();
  }

  // That of the widest tile, or of a narrower one of the rows that are left: a tile of few rows has places of its own.
  static int64_t bytes_up_to(const Plan<T>& plan, int lanes) {
    int64_t most = 0;
    for (int narrower = kLanes<T>; narrower <= lanes; narrower += kLanes<T>) {
      const int64_t own = TilePositions(plan, narrower).bytes;
      most = own > most ? own : most;
    }
    return most;
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
