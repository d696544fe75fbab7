// Draws one tile: its scratch, how wide it is, and whether few rows fill it.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/tile-inl.h"
#include "engine/tile_positions-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T, int NV, bool kPairs>
bool run_tile(const Plan<T>& plan, const Request<T>& request, int64_t first, int rows, char* scratch,
              const Prefix<T>* prefix) {
  const TilePositions<T> at(plan, NV * kLanes<T>);
  const auto numbers = [scratch](int64_t place) { return reinterpret_cast<T*>(scratch + place); };
  const int period = period_of(rows, NV * kLanes<T>);
  Drawing<T> drawing(plan, request, first, rows, period, NV * kLanes<T>, scratch + at.drawing);
  const FewRows<T> few{plan,
                       period,
                       numbers(at.few),
                       numbers(at.few_sums),
                       numbers(at.few_quads),
                       reinterpret_cast<typename FewRows<T>::Ahead*>(scratch + at.aheads)};
  const bool skips_zeros = NV > 1 && prefix == nullptr && TilePositions<T>::skips_zeros(plan);
  Nonzero lit_slots(TilePositions<T>::lit_slots_of(plan), scratch + at.lit_slots);
  Nonzero lit_quads(TilePositions<T>::lit_quads_of(plan), scratch + at.lit_quads);
  const bool are_few = Tile<T, NV, kPairs>::kHasFew && period < kLanes<T> && prefix == nullptr;
  if (are_few) few.begin();
  Tile<T, NV, kPairs> tile{
      plan,
      request,
      numbers(at.table),
      reinterpret_cast<uint32_t*>(scratch + at.pairs),
      numbers(at.drawn),
      numbers(at.params),
      {plan, numbers(at.looked), numbers(at.turned), reinterpret_cast<OpenPanel*>(scratch + at.open),
       reinterpret_cast<LookupCode*>(scratch + at.lookup_codes), are_few ? period : NV * kLanes<T>},
      {plan, numbers(at.quad_sums), reinterpret_cast<QuadCode*>(scratch + at.quad_codes), numbers(at.quad_tables),
       skips_zeros ? &lit_quads : nullptr},
      numbers(at.limits),
      reinterpret_cast<double*>(scratch + at.log_prob),
      drawing,
      skips_zeros ? &lit_slots : nullptr,
      first,
      rows,
      prefix,
      Lanes16(period),
      are_few ? &few : nullptr};
  // The other half of a pair may be read, with weight zero, before it is known: it must be a number.
  if (kPairs) std::memset(tile.pairs, 0, static_cast<size_t>(at.drawn - at.pairs));
  tile.run();
  return drawing.nan_seen() || any_lane<T>(tile.nan_lanes);
}

template <class T, bool kPairs>
bool draw_tile(const Plan<T>& plan, const Request<T>& request, int64_t first, int rows, char* scratch,
               const Prefix<T>* prefix) {
  const int vectors = whole_vectors<T>(rows) / kLanes<T>;
  if (vectors == 1) return run_tile<T, 1, kPairs>(plan, request, first, rows, scratch, prefix);
  if (vectors == 2 || kTileVectors == 2) return run_tile<T, 2, kPairs>(plan, request, first, rows, scratch, prefix);
  return run_tile<T, kTileVectors, kPairs>(plan, request, first, rows, scratch, prefix);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
