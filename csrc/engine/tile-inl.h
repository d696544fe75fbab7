// Many rows: one vector lane is one row. The table holds, for each slot, the values of all rows of the tile.
//
// Blocked left-looking substitution: when the first unit of a panel of 8 is due, the inputs that all of the panel can
// already have are multiplied in one pass (almost all the work); the few that come later are added unit by unit.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/drawing-inl.h"
#include "engine/few-inl.h"
#include "engine/functions-inl.h"
#include "engine/lookups-inl.h"
#include "engine/noise-inl.h"
#include "engine/nonzero-inl.h"
#include "engine/pairs-inl.h"
#include "engine/panel-inl.h"
#include "engine/prefix-inl.h"
#include "engine/tile_positions-inl.h"
#include "engine/tile_quads-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// With kPairs the panels are multiplied in bf16 (pairs-inl.h).
template <class T, int NV, bool kPairs>
struct Tile {
  static constexpr int stride = NV * kLanes<T>;
  static constexpr int width = (stride + kPhiloxLanes - 1) / kPhiloxLanes * kPhiloxLanes;  // rows, in whole counters

  static constexpr bool kHasFew = NV == 1 && !kPairs && FewRows<T>::fits;  // as has_few of TilePositions

  const Plan<T>& plan;
  const Request<T>& request;
  T* table;
  uint32_t* pairs;
  T* drawn;   // (D, stride): variables in the order of drawing, unless they are drawn over their parameters
  T* params;  // (most_params, stride): those of one variable, where they do not lie together
  OpenPanels<T, NV> open_panels;
  TileQuads<T, NV> quads;
  T* limits;  // (4, width): thresholds of the steps of the present noise block, of plain draws
  double* log_prob;
  Drawing<T>& drawing;
  Nonzero* lit_slots;  // or null, where looking for zeros does not pay
  int64_t base;        // row of this piece in lane 0
  int rows;
  const Prefix<T>* prefix;  // of all these rows, or null
  Lanes16 repeated;
  const FewRows<T>* few;  // multiplies, or null
  int noise_block = -1;
  Int<T> nan_lanes{};

  T* slot(int64_t index) const { return table + index * stride; }
  // Where a unit is computed: parameters share the rows of the ring.
  T* place_of(int64_t unit) const {
    const int64_t end = plan.first_param + plan.ring;
    return slot(unit < end ? unit
                           : plan.first_param +
                                 static_cast<uint32_t>(unit - plan.first_param) % static_cast<uint32_t>(plan.ring));
  }
  T* drawn_at(int64_t place) const { return plan.in_place ? slot(plan.x_slot + place) : drawn + place * stride; }

  // Called for slots whose values are final and may be read.
  void publish(int64_t first, int64_t count) {
    if constexpr (kHasFew)
      if (few != nullptr) few->publish(first, count, slot(first), stride);
    if constexpr (kPairs) {
      for (int64_t i = first; i < first + count; ++i)
        for (int v = 0; v < stride; v += kLanes<T>) put_half(slot(i) + v, pairs + (i / 2) * stride + v, i % 2 != 0);
    }
  }

  // Those of a list that are not in the prefix.
  Columns<T> not_known(int64_t weights, int64_t first, int32_t count, int weights_per_column) const {
    const int32_t* slots = plan.panel_columns + first;
    const int64_t known = prefix == nullptr ? 0 : prefix->count_known(slots, count);
    return {plan.panel_weights + weights + known * weights_per_column, slots + known, nullptr, count - known};
  }

  // Nor are zero in all rows.
  Columns<T> not_zero(int32_t number_of_affine, const Panel& panel) {
    Columns<T> all = not_known(panel.weights, panel.columns, panel.num_columns, kPanelRows);
    if (lit_slots != nullptr && plan.affines[number_of_affine].shares)
      all.places = lit_slots->places_of(number_of_affine, all.slots, panel.num_columns, all.count);
    return all;
  }

  void multiply_panel(int32_t number_of_affine, int32_t number, int64_t first_slot) {
    const AffineInfo& affine = plan.affines[number_of_affine];
    const Panel& panel = plan.panels[number];
    if constexpr (kHasFew)
      if (few != nullptr)
        return few->multiply(number_of_affine, number, place_of(first_slot),
                             affine.summed < 0 ? nullptr : quads.sums_of(affine));
    if constexpr (kPairs) {
      multiply_pairs<NV>(plan, plan.pair_panels[number], plan.bias + first_slot, pairs, place_of(first_slot));
    } else {
      constexpr int units = kUnits<NV>;
      if constexpr (kHasQuads<T>)
        if (affine.summed >= 0) quads.sum(affine, panel, first_slot, prefix);
      const Columns<T> early = not_zero(number_of_affine, panel);
      const Columns<T> late = not_known(panel.late_weights, panel.late_columns, panel.num_late, kPanelRows);
      const T* start = prefix == nullptr ? plan.bias : prefix->values;
      for (int part = 0; part < panel.num_rows; part += units)
        multiply_columns<T, units, NV>(early, late, kPanelRows, part, start + first_slot + part, table,
                                       place_of(first_slot + part), panel.num_rows - part);
    }
  }

  // When the fifth unit of a panel is due: what has become known since, for the four that are left.
  void multiply_second_half(const Panel& panel, int64_t first_slot) {
    constexpr int half = kPanelRows / 2;
    multiply_columns<T, half, NV>(not_known(panel.half_weights, panel.half_columns, panel.num_half_columns, half), {},
                                  half, 0, nullptr, table, place_of(first_slot), panel.num_rows - half);
  }

  void start_lookups(const AffineInfo& affine, const Panel& panel, int64_t first_slot) {
    if (prefix == nullptr) return open_panels.start(affine.open, 0, nullptr);
    T sums[kPanelRows] = {};
    std::memcpy(sums, prefix->apart.looked + first_slot, static_cast<size_t>(panel.num_rows) * sizeof(T));
    open_panels.start(affine.open, prefix->count_looked_up(plan, panel), sums);
  }

  // Adds the inputs of one unit that became known after its panel was multiplied, and the sums that are kept apart if
  // there are any; rectifies if that is its function.
  template <bool kRectify>
  void finish_unit(int64_t unit, const T* summed, const T* looked) {
    const int64_t end = plan.tail_start[unit + 1];
    int64_t begin = plan.tail_start[unit];
    if (prefix != nullptr) begin += prefix->count_known(plan.tail_columns + begin, end - begin);
    if (begin == end && !kRectify && summed == nullptr && looked == nullptr) return;
    T* own = place_of(unit);
    Vec<T> sum[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) sum[v] = load<T>(own + v * kLanes<T>);
    for (int64_t i = begin; i < end; ++i) {
      const T* input = slot(plan.tail_columns[i]);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) sum[v] += plan.tail_weights[i] * load<T>(input + v * kLanes<T>);
    }
    if (summed != nullptr) add_sums<T, NV>(sum, summed);
    if (looked != nullptr) add_sums<T, NV>(sum, looked);
    Int<T> lit{};
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) {
      if (kRectify) {
        sum[v] = max0<T>(sum[v]);
        lit |= sum[v] != T(0);
      }
      store<T>(own + v * kLanes<T>, sum[v]);
    }
    if (kRectify && lit_slots != nullptr && !any_lane<T>(lit)) lit_slots->is_zero(unit);
  }

  void finish(const Step& step) {
    const AffineInfo& affine = plan.affines[step.left];
    const bool rectify = step.function == Function::relu;
    for (int32_t unit = step.first; unit < step.first + step.count; ++unit) {
      const int32_t index = unit - affine.first_slot, in_panel = index % kPanelRows;
      const int32_t number = affine.first_panel + index / kPanelRows;
      const Panel& panel = plan.panels[number];
      if (in_panel == 0) multiply_panel(step.left, number, unit);
      if (in_panel == 0 && affine.open >= 0) start_lookups(affine, panel, unit);
      if (in_panel == kPanelRows / 2) multiply_second_half(panel, unit);
      const T* looked = affine.open < 0 ? nullptr : open_panels.sums_of(affine.open, panel, unit, in_panel);
      const T* summed = affine.summed < 0 ? nullptr : quads.sums_of(affine) + in_panel * stride;
      rectify ? finish_unit<true>(unit, summed, looked) : finish_unit<false>(unit, summed, looked);
    }
    if (!rectify) apply<T>(step.function, slot(step.first), slot(step.first), int64_t(step.count) * stride);
  }

  // The row of a lane; the lanes behind the last are row 0 once more.
  int64_t row_of(int lane) const {
    const int row = repeated.row_of(lane);
    return base + (row < rows ? row : 0);
  }

  // Thresholds of the steps of a block; of few rows, of several blocks that follow one another.
  void make_limits(int block) {
    noise_block = block;
    alignas(kAlign) uint32_t words[4 * kWidest<T>];
    for (int start = 0; start < stride; start += kPhiloxLanes) {
      const auto counter_of = [&](int i) {
        return Counter{static_cast<uint64_t>(block + repeated.block_of(i)), request.noise_row(row_of(start + i))};
      };
      noise_words(counter_of, 0, request.seed, words + start, width);
    }
    if (repeated.blocks() == 1) return thresholds<T>(words, limits, 4 * width);
    alignas(kAlign) T found[4 * kPhiloxLanes];
    thresholds<T>(words, found, 4 * kPhiloxLanes);
    repeat_limits<T>(found, repeated, stride, width, limits);
  }

  // Those of one step, by lane.
  const T* limits_of(int32_t noise_step) {
    const int32_t block = noise_step / 4 & -repeated.blocks();
    if (block != noise_block) make_limits(block);
    return limits + (noise_step - 4 * block) * width;
  }

  // Bernoulli variables with nothing asked of them.
  void draw_plain(const Step& step) {
    for (int32_t index = step.first; index < step.first + step.count; ++index) {
      const T* limit = limits_of(plan.noise_steps[index]);
      const T* logit = slot(plan.param_slots[index]);
      T* x = slot(plan.x_slot + index);
      for (int v = 0; v < stride; v += kLanes<T>) {
        const Vec<T> l = load<T>(logit + v);
        const Vec<T> one = l > load<T>(limit + v) ? splat<T>(1) : Vec<T>{};
        store<T>(x + v, one);
        nan_lanes |= l != l;
        if (request.log_prob == nullptr) continue;
        const Vec<T> nats = -softplus_<T>(one > T(0) ? -l : l);
        for (int lane = 0; lane < kLanes<T>; ++lane) log_prob[v + lane] += static_cast<double>(nats[lane]);
      }
    }
    publish(plan.x_slot + step.first, step.count);
    if (few == nullptr) quads.complete(step, table);
  }

  // The parameters of a variable, one after the other.
  const T* gather_params(int64_t first, int64_t count) const {
    const int64_t before_end = plan.ring - (first - plan.first_param) % plan.ring;
    if (count <= before_end) return place_of(first);
    std::memcpy(params, place_of(first), static_cast<size_t>(before_end * stride) * sizeof(T));
    std::memcpy(params + before_end * stride, slot(plan.first_param),
                static_cast<size_t>((count - before_end) * stride) * sizeof(T));
    return params;
  }

  void draw(const Step& step) {
    for (int32_t place = step.first; place < step.first + step.count; ++place) {
      const Variable& variable = plan.drawn[place];
      const Conditional<T>& conditional = plan.conditionals[variable.conditional];
      T* x = drawn_at(place);
      drawing.draw(variable, gather_params(variable.param_slot, conditional.num_params), stride, x);
      if (variable.x_slot >= plan.num_slots) {
        open_panels.take(place, x);
        continue;
      }
      T* units = slot(variable.x_slot);
      if (conditional.encoding != Encoding::number) {
        encode_categories<T>(conditional, plan.tables + variable.table, x, stride, units, stride);
      } else if (!plan.in_place) {
        scale_numbers<T>(conditional, x, units, stride);
      }
      publish(variable.x_slot, conditional.units);
    }
    if (few == nullptr) quads.complete(step, table);
  }

  void fill_context() {
    for (int r = 0; r < stride; ++r) {
      const T* from = request.context + request.source(row_of(r)) * plan.context_features;
      for (int64_t i = 0; i < plan.num_context_units; ++i) slot(plan.context_slot + i)[r] = from[plan.context_units[i]];
    }
  }

  void spread(T value, T* out) const {
    for (int v = 0; v < stride; v += kLanes<T>) store<T>(out + v, splat<T>(value));
  }

  // The units of a panel that was begun before the first step that is not shared.
  void resume_panel(const AffineInfo& affine) {
    int32_t index = 0;
    while (index < affine.num_rows && prefix->known[affine.first_slot + index] != 0) ++index;
    if (index == affine.num_rows || index % kPanelRows == 0) return;
    const Panel& panel = plan.panels[affine.first_panel + index / kPanelRows];
    const int32_t begin = index / kPanelRows * kPanelRows;
    for (int32_t i = index; i < begin + panel.num_rows && affine.summed >= 0; ++i)
      spread(prefix->apart.summed[affine.first_slot + i], quads.sums_of(affine) + (i - begin) * stride);
    for (; index < begin + panel.num_rows; ++index)
      spread(prefix->values[affine.first_slot + index], place_of(affine.first_slot + index));
    if (affine.open >= 0) start_lookups(affine, panel, affine.first_slot + begin);
  }

  // Sets the table to what the prefix has found; returns the step to go on with.
  const Step* resume() {
    const int64_t drawn_to = prefix->num_drawn;
    const int64_t params_from = drawn_to < plan.features ? plan.drawn[drawn_to].param_slot : plan.num_slots;
    for (int64_t i = 0; i < plan.num_slots; ++i)
      if (prefix->known[i] == kValue || (prefix->known[i] == kParameter && i >= params_from))
        spread(prefix->values[i], place_of(i));
    for (int64_t i = 0; i < plan.num_affines; ++i) resume_panel(plan.affines[i]);
    for (int32_t place = 0; place < drawn_to; ++place) {
      spread(prefix->x[plan.variables[place]], drawn_at(place));
      if (plan.drawn[place].x_slot >= plan.num_slots) open_panels.take(place, drawn_at(place));
    }
    drawing.start_sums(prefix->log_prob, prefix->log_weight);
    return prefix->next;
  }

  void run() {
    const Step* step = plan.steps;
    if (prefix != nullptr) {
      step = resume();
    } else {
      if (plan.num_context_units) fill_context();
      publish(plan.context_slot, plan.num_context_units);
    }
    const bool plain = plan.plain && request.plain();
    for (int r = 0; r < stride; ++r) log_prob[r] = 0;
    for (; step != plan.steps + plan.num_steps; ++step) {
      const int64_t values = int64_t(step->count) * stride;
      switch (step->kind) {
        case Kind::affine:
          finish(*step);
          break;
        case Kind::unary:
          apply<T>(step->function, slot(step->left), slot(step->first), values);
          break;
        case Kind::add:
          add<T>(slot(step->left), slot(step->right), slot(step->first), values);
          break;
        case Kind::multiply:
          times<T>(slot(step->left), slot(step->right), slot(step->first), values);
          break;
        case Kind::draw:
          plain ? draw_plain(*step) : draw(*step);
          continue;
      }
      if (step->first < plan.first_param) publish(step->first, step->count);  // parameters are read by draws alone
    }
    write();
    if (!plain) {
      drawing.write_sums();
    } else if (request.log_prob != nullptr) {
      for (int r = 0; r < rows; ++r) request.log_prob[base + r] = static_cast<T>(log_prob[r]);
    }
  }

  // One square of the table, by rows: out[r][v] = x of variable `start + v` in row `from + r`.
  void read_square(int64_t start, int from, Vec<T> (&square)[kLanes<T>]) const {
#pragma GCC unroll 16
    for (int v = 0; v < kLanes<T>; ++v) square[v] = load<T>(drawn_at(start + v) + from);
    transpose<T>(square);
  }

  void write() {
    constexpr int block = kLanes<T>;
    const int64_t features = plan.features;
    int64_t start = 0;
    for (; start + block <= features; start += block) {
      const int32_t* variables = plan.variables + start;
      for (int from = 0; from < rows; from += block) {
        Vec<T> square[block];
        read_square(start, from, square);
        const int count = rows - from < block ? rows - from : block;
        T* out = request.out + (base + from) * features;
        if (plan.sorted) {
#pragma GCC unroll 16
          for (int r = 0; r < block; ++r)
            if (r < count) std::memcpy(out + r * features + start, &square[r], sizeof square[r]);
        } else {
          alignas(kAlign) T values[block * block];
#pragma GCC unroll 16
          for (int r = 0; r < block; ++r) store<T>(values + r * block, square[r]);
          for (int r = 0; r < count; ++r)
            for (int v = 0; v < block; ++v) out[r * features + variables[v]] = values[r * block + v];
        }
      }
    }
    for (; start < features; ++start)
      for (int r = 0; r < rows; ++r) request.out[(base + r) * features + plan.variables[start]] = drawn_at(start)[r];
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
