// The quads of a tile: their codes as they are drawn, and their sums in the panels that are open.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/nonzero-inl.h"
#include "engine/prefix-inl.h"
#include "engine/quads-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T, int NV>
struct TileQuads {
  static constexpr int stride = NV * kLanes<T>;

  const Plan<T>& plan;
  T* sums;          // (num_summed, 8, stride)
  QuadCode* codes;  // (num_quads, stride)
  T* tables;
  Nonzero* lit;  // or null, where looking for zeros does not pay

  T* sums_of(const AffineInfo& affine) const { return sums + int64_t(affine.summed) * kPanelRows * stride; }

  // Called when variables are drawn and lie in the table.
  void complete(const Step& step, const T* table) {
    if constexpr (kHasQuads<T>)
      for (int32_t place = step.first; plan.num_summed > 0 && place < step.first + step.count; ++place)
        if (plan.quad_at[place] >= 0) encode(plan.quad_at[place], table);
  }

  // The quads that a panel has when it is due.
  void sum(const AffineInfo& affine, const Panel& panel, int64_t first_slot, const Prefix<T>* prefix) {
    T start[kPanelRows] = {};
    if (prefix != nullptr)
      std::memcpy(start, prefix->apart.summed + first_slot, static_cast<size_t>(panel.num_rows) * sizeof(T));
    const int32_t* numbers = plan.affine_quads + affine.first_quad;
    const int32_t known = prefix == nullptr ? 0 : prefix->count_quads(plan, numbers, panel.num_quads);
    PanelQuads<T> all{plan.panel_weights + panel.quad_weights, numbers, codes, plan.places + known,
                      panel.num_quads - known};
    if (lit != nullptr) all.places = lit->places_of(affine.summed, numbers, panel.num_quads, all.count);
    QuadSums<T, NV>::sum(all, affine.spins, start, tables, sums_of(affine));
  }

 private:
  void encode(int32_t number, const T* table) {
    const Quad& quad = plan.quads[number];
    const T* x[4];
    for (int i = 0; i < 4; ++i) x[i] = table + int64_t(quad.slots[i]) * stride;
    const bool any = QuadSums<T, NV>::encode(x, codes + int64_t(number) * stride);
    if (lit != nullptr && !any && !quad.spins) lit->is_zero(number);
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
