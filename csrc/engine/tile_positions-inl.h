// How many rows a tile has, and where things lie in its scratch.
#pragma once

#include <cstdint>

#include "engine/drawing-inl.h"
#include "engine/lookups-inl.h"
#include "engine/noise-inl.h"
#include "engine/panel-inl.h"
#include "engine/scratch-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
constexpr int kTileRows = kTileVectors * kLanes<T>;
template <class T>
constexpr int kWidest = kPhiloxLanes * ((kTileRows<T> + kPhiloxLanes - 1) / kPhiloxLanes);  // rows, in whole counters

// Where things lie in the scratch of a tile: the table (and that of pairs), what was drawn where that is not in the
// table, the parameters of one variable, the sums of look-ups, the thresholds of four steps, log-probabilities.
template <class T>
struct TilePositions {
  int64_t table, pairs, drawn, params, looked, known, limits, log_prob, drawing, bytes;
  TilePositions(const Plan<T>& plan, int lanes) {
    const auto rows = [lanes](int64_t count) { return count * lanes * int64_t(sizeof(T)); };
    Places places;
    table = places.add(rows(plan.first_param + plan.ring));
    pairs = places.add(plan.pair_weights == nullptr ? 0 : rows((plan.first_param + plan.ring + 1) / 2));
    drawn = places.add(plan.in_place ? 0 : rows(plan.features));
    params = places.add(plan.in_place ? 0 : rows(plan.most_params));
    looked = places.add(OpenPanels<T>::bytes_of_sums(plan, lanes));
    known = places.add(plan.num_open * int64_t(sizeof(int32_t)));
    limits = places.add(4 * kWidest<T> * int64_t(sizeof(T)));
    log_prob = places.add(kWidest<T> * int64_t(sizeof(double)));
    drawing = places.add(Drawing<T>::bytes(plan, lanes));
    bytes = places.size();
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
