// Few rows: one row at a time, one vector lane is one unit.
//
// Right-looking substitution: as soon as a value is known its column of weights is added to all later units. A value of
// zero adds nothing and costs nothing: a variable that came out 0, a rectified unit that came out 0. Every unit
// receives its inputs in the same order, and rounded in the same way, as in a tile, so both paths give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/drawing-inl.h"
#include "engine/functions-inl.h"
#include "engine/noise-inl.h"
#include "engine/quads-inl.h"
#include "engine/scratch-inl.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
int64_t padded_slots(const Plan<T>& plan) {
  return (plan.num_slots + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T>
int64_t padded_limits(const Plan<T>& plan) {
  return (plan.features + 4 * kPhiloxLanes - 1) / (4 * kPhiloxLanes) * (4 * kPhiloxLanes);
}

// Where things lie in the scratch of the path for few rows.
template <class T>
struct RowPositions {
  int64_t values, looked, summed, limits, params, x, drawing, bytes;
  explicit RowPositions(const Plan<T>& plan) {
    Places places;
    values = places.add(padded_slots(plan) * int64_t(sizeof(T)));
    looked = places.add(plan.num_open == 0 ? 0 : plan.looked_slots * int64_t(sizeof(T)));
    summed = places.add(plan.num_summed == 0 ? 0 : plan.looked_slots * int64_t(sizeof(T)));
    limits = places.add(padded_limits(plan) * int64_t(sizeof(T)));
    params = places.add(plan.most_params * kLanes<T> * int64_t(sizeof(T)));
    x = places.add(2 * kLanes<T> * int64_t(sizeof(T)));
    drawing = places.add(Drawing<T>::bytes(plan, kLanes<T>));
    bytes = places.size();
  }
};

constexpr uint8_t kValue = 1, kParameter = 2;

// What is kept apart from the sums of products, by slot, (looked_slots,) each: of what is looked up, and of quads.
// Where no operation has any there are none.
template <class T>
struct ApartSums {
  T *looked, *summed;

  // The sum of a unit with those that its operation has.
  T add(const AffineInfo& affine, int64_t slot, T sum) const {
    if (affine.summed >= 0) sum += summed[slot];
    if (affine.open >= 0) sum += looked[slot];
    return sum;
  }
  void clear(const Plan<T>& plan) const {
    if (plan.num_open > 0) std::memset(looked, 0, static_cast<size_t>(plan.looked_slots) * sizeof(T));
    if (plan.num_summed > 0) std::memset(summed, 0, static_cast<size_t>(plan.looked_slots) * sizeof(T));
  }
  void copy(const Plan<T>& plan, const ApartSums& from) const {
    if (plan.num_open > 0) std::memcpy(looked, from.looked, static_cast<size_t>(plan.looked_slots) * sizeof(T));
    if (plan.num_summed > 0) std::memcpy(summed, from.summed, static_cast<size_t>(plan.looked_slots) * sizeof(T));
  }
};

template <class T>
struct Row {
  const Plan<T>& plan;
  const Request<T>& request;
  T* values;  // (num_slots,): sums that are not finished, then values
  ApartSums<T> apart;
  T* limits;       // (D,): thresholds by noise step, of plain draws
  T* params;       // (most_params, lanes): those of one variable, the same in all lanes
  T* x;            // (2, lanes): what was drawn, and what is read of it
  uint8_t* known;  // (num_slots,): what is finished, 0 for nothing; or null
  Drawing<T> drawing;
  double log_prob = 0;
  bool nan_seen = false;

  // Adds a finished value to everything that reads it.
  void propagate(int64_t slot) {
    if (values[slot] != T(0)) add_columns(slot, values[slot], values);
  }

  // Most steps are of one unit, and half of those are zero: as one branch, and with one store at most.
  void finish_unit(const AffineInfo& affine, Function function, int64_t slot, bool param) {
    if (known != nullptr) known[slot] = param ? kParameter : kValue;
    T value = apart.add(affine, slot, values[slot]);
    if (function == Function::relu) {
      if (value <= T(0)) {
        values[slot] = T(0);
        return;
      }
      if (affine.sums_apart()) values[slot] = value;
    } else if (function != Function::identity || affine.sums_apart()) {
      if (function != Function::identity) value = call_one<T>(function, value);
      values[slot] = value;
    }
    if (value != T(0) && !param) add_columns(slot, value, values);
  }

  // The columns of a unit, times its value, to sums by slot.
  void add_columns(int64_t unit, T value, T* totals) {
    for (int64_t c = plan.column_start[unit]; c < plan.column_start[unit + 1]; ++c) {
      const Column& column = plan.columns[c];
      const T* weights = plan.column_weights + column.weights;
      T* sums = totals + column.first_slot;
      for (int32_t i = 0; i < column.count; i += kLanes<T>)
        store<T>(sums + i, load<T>(sums + i) + load<T>(weights + i) * value);
    }
  }

  // Adds to their sums what the quads give that these variables complete.
  void complete_quads(const Step& step) {
    for (int32_t place = step.first; place < step.first + step.count && kHasQuads<T> && plan.num_summed > 0; ++place)
      if (plan.quad_at[place] >= 0) add_quad(plan.quad_at[place]);
  }

  MADE_FAST_NOINLINE void add_quad(int32_t number) {
    const int32_t* slots = plan.quads[number].slots;
    int32_t which[4], count = 0;  // those that are not zero
    for (int32_t i = 0; i < 4; ++i) {
      which[count] = i;
      count += values[slots[i]] != T(0);
    }
    switch (count) {
      case 1:
        return add_inputs<1>(number, which);
      case 2:
        return add_inputs<2>(number, which);
      case 3:
        return add_inputs<3>(number, which);
      case 4:
        return add_inputs<4>(number, which);
    }
  }

  // As quad_input, without what is zero.
  template <int n>
  void add_inputs(int32_t number, const int32_t* which) {
    T x[n];
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) x[i] = values[plan.quads[number].slots[which[i]]];
    for (int64_t c = plan.quad_start[number]; c < plan.quad_start[number + 1]; ++c) {
      const QuadColumns& columns = plan.quad_columns[c];
      const T* weights[n];
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i)
        weights[i] = plan.column_weights + columns.weights + int64_t(which[i]) * columns.count;
      T* sums = apart.summed + columns.first_slot;
      for (int32_t i = 0; i < columns.count; i += kLanes<T>) {
        Vec<T> input = load<T>(weights[0] + i) * x[0];
#pragma GCC unroll 4
        for (int j = 1; j < n; ++j) input += load<T>(weights[j] + i) * x[j];
        store<T>(sums + i, load<T>(sums + i) + input);
      }
    }
  }

  void make_limits(uint64_t row) {
    alignas(kAlign) uint32_t words[4 * kPhiloxLanes];
    alignas(kAlign) T found[4 * kPhiloxLanes];
    const int64_t blocks = (plan.features + 3) / 4;
    for (int64_t start = 0; start < blocks; start += kPhiloxLanes) {
      const auto counter_of = [&](int i) { return Counter{static_cast<uint64_t>(start + i), row}; };
      noise_words(counter_of, 0, request.seed, words, kPhiloxLanes);
      thresholds<T>(words, found, 4 * kPhiloxLanes);
      for (int i = 0; i < kPhiloxLanes; ++i)
        for (int w = 0; w < 4; ++w) limits[(start + i) * 4 + w] = found[w * kPhiloxLanes + i];
    }
  }

  // Bernoulli variables with nothing asked of them.
  void draw_plain(const Step& step, T* out) {
    for (int32_t i = 0; i < step.count; ++i) {
      const int64_t index = step.first + i;
      const T logit = values[plan.param_slots[index]];
      const T drawn = logit > limits[plan.noise_steps[index]] ? T(1) : T(0);
      nan_seen |= logit != logit;
      values[plan.x_slot + index] = drawn;
      out[plan.variables[index]] = drawn;
      if (request.log_prob != nullptr)
        log_prob += static_cast<double>((-softplus_<T>(splat<T>(drawn > T(0) ? -logit : logit)))[0]);
    }
    finished(plan.x_slot + step.first, step.count);
    complete_quads(step);
  }

  void draw(const Step& step, T* out) {
    for (int32_t place = step.first; place < step.first + step.count; ++place) {
      const Variable& variable = plan.drawn[place];
      const Conditional<T>& conditional = plan.conditionals[variable.conditional];
      for (int32_t k = 0; k < conditional.num_params; ++k)
        store<T>(params + k * kLanes<T>, splat<T>(values[variable.param_slot + k]));
      drawing.draw(variable, params, kLanes<T>, x);
      out[variable.number] = x[0];
      if (variable.x_slot >= plan.num_slots) {
        add_columns(variable.x_slot + static_cast<int64_t>(x[0]), T(1), apart.looked);
      } else if (conditional.encoding == Encoding::number) {
        scale_numbers<T>(conditional, x, x + kLanes<T>, kLanes<T>);
        values[variable.x_slot] = x[kLanes<T>];
      } else {
        encode_categories<T>(conditional, plan.tables + variable.table, x, 1, values + variable.x_slot, 1);
      }
    }
    for (int32_t place = step.first; place < step.first + step.count; ++place) {
      const Variable& variable = plan.drawn[place];
      const int32_t units = variable.x_slot < plan.num_slots ? plan.conditionals[variable.conditional].units : 0;
      finished(variable.x_slot, units);
    }
    complete_quads(step);
  }

  // Sums and values before the first step.
  void begin(int64_t row) {
    std::memcpy(values, plan.bias, static_cast<size_t>(padded_slots(plan)) * sizeof(T));
    apart.clear(plan);
    const int64_t source = request.source(row);
    for (int64_t i = 0; i < plan.num_context_units; ++i) {
      values[plan.context_slot + i] = request.context[source * plan.context_features + plan.context_units[i]];
      finished(plan.context_slot + i, 1);
    }
  }

  // These slots have their values; a parameter is read by the draw of its variable alone.
  void finished(int64_t first, int64_t count, bool params = false) {
    if (known != nullptr) std::memset(known + first, params ? kParameter : kValue, static_cast<size_t>(count));
    for (int64_t i = first; i < first + count && !params; ++i) propagate(i);
  }

  bool observes(const Step& step, int64_t row) const {
    const uint8_t* observed = request.conditions.observed + request.source(row) * plan.features;
    for (int32_t i = step.first; i < step.first + step.count; ++i)
      if (!observed[plan.variables[i]]) return false;
    return true;
  }

  // Takes steps, to the end or to the first draw of a variable that is not observed; returns the one that is due next.
  const Step* go_on(const Step* step, T* out, int64_t row, bool while_observed) {
    const bool plain = plan.plain && request.plain();
    if (plain) make_limits(request.noise_row(row));
    for (; step != plan.steps + plan.num_steps; ++step) {
      T* first = values + step->first;
      const AffineInfo* affine;
      switch (step->kind) {
        case Kind::affine:
          affine = &plan.affines[step->left];
          if (step->count == 1) {
            finish_unit(*affine, step->function, step->first, step->first >= plan.first_param);
            continue;
          }
          for (int32_t i = 0; i < step->count && affine->sums_apart(); ++i)
            first[i] = apart.add(*affine, step->first + i, first[i]);
          apply<T>(step->function, first, first, step->count);
          break;
        case Kind::unary:
          apply<T>(step->function, values + step->left, first, step->count);
          break;
        case Kind::add:
          add<T>(values + step->left, values + step->right, first, step->count);
          break;
        case Kind::multiply:
          times<T>(values + step->left, values + step->right, first, step->count);
          break;
        case Kind::draw:
          if (while_observed && !observes(*step, row)) return step;
          plain ? draw_plain(*step, out) : draw(*step, out);
          continue;
      }
      finished(step->first, step->count, step->first >= plan.first_param);
    }
    return step;
  }

  void write_sums(int64_t row) const {
    if (!(plan.plain && request.plain()))
      drawing.write_sums();
    else if (request.log_prob != nullptr)
      request.log_prob[row] = static_cast<T>(log_prob);
  }
};

template <class T>
Row<T> row_at(const Plan<T>& plan, const Request<T>& request, int64_t row, char* scratch) {
  const RowPositions<T> at(plan);
  const auto numbers = [scratch](int64_t place) { return reinterpret_cast<T*>(scratch + place); };
  return {plan,
          request,
          numbers(at.values),
          {numbers(at.looked), numbers(at.summed)},
          numbers(at.limits),
          numbers(at.params),
          numbers(at.x),
          nullptr,
          {plan, request, row, 1, 1, kLanes<T>, scratch + at.drawing}};
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
