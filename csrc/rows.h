// Few rows: one row at a time, one vector lane is one unit. Included by engine.cpp only, inside the namespace of its
// instruction set.
//
// Right-looking substitution: as soon as a value is known its column of weights is added to all later units. A value of
// zero adds nothing and costs nothing: a variable that came out 0, a rectified unit that came out 0. Every unit
// receives its inputs in the same order, and rounded in the same way, as in a tile, so both paths give the same bits.
#pragma once

// Functions of arrays, shared by both paths and never inlined, so that both round alike. `n` need not be whole vectors.
template <class T>
__attribute__((noinline)) void apply(Function function, const T* in, T* out, int64_t n) {
  if (function == Function::identity && in == out) return;
  int64_t i = 0;
  if (function == Function::relu) {
    for (; i + kLanes<T> <= n; i += kLanes<T>) {
      Vec<T> x;
      std::memcpy(&x, in + i, sizeof x);
      x = max0<T>(x);
      std::memcpy(out + i, &x, sizeof x);
    }
  } else {
    for (; i + kLanes<T> <= n; i += kLanes<T>) {
      Vec<T> x;
      std::memcpy(&x, in + i, sizeof x);
      x = call<T>(function, x);
      std::memcpy(out + i, &x, sizeof x);
    }
  }
  if (i < n) {
    Vec<T> x{};
    std::memcpy(&x, in + i, static_cast<size_t>(n - i) * sizeof(T));
    x = call<T>(function, x);
    std::memcpy(out + i, &x, static_cast<size_t>(n - i) * sizeof(T));
  }
}

template <class T>
__attribute__((noinline)) void add(const T* left, const T* right, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = left[i] + right[i];
}

template <class T>
__attribute__((noinline)) void times(const T* left, const T* right, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = left[i] * right[i];
}

template <class T>
int64_t padded_slots(const Plan<T>& plan) {
  return (plan.num_slots + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T>
int64_t padded_limits(const Plan<T>& plan) {
  return (plan.features + 4 * kPhiloxLanes - 1) / (4 * kPhiloxLanes) * (4 * kPhiloxLanes);
}

template <class T>
int64_t few_rows_scratch(const Plan<T>& plan) {
  return (padded_slots(plan) + padded_limits(plan)) * int64_t(sizeof(T));
}

template <class T>
struct Row {
  const Plan<T>& plan;
  const Request<T>& request;
  T* values;  // (num_slots,): sums that are not finished, then values
  T* limits;  // (D,): thresholds by noise step
  double log_prob = 0;
  bool nan_seen = false;

  // Adds a finished value to everything that reads it.
  void propagate(int64_t slot) {
    const T value = values[slot];
    if (value == T(0)) return;
    for (int64_t c = plan.column_start[slot]; c < plan.column_start[slot + 1]; ++c) {
      const Column& column = plan.columns[c];
      const T* weights = plan.column_weights + column.weights;
      T* sums = values + column.first_slot;
      for (int32_t i = 0; i < column.count; i += kLanes<T>)
        store<T>(sums + i, load<T>(sums + i) + load<T>(weights + i) * value);
    }
  }

  void make_limits(uint64_t row) {
    alignas(kAlign) uint64_t c0[kPhiloxLanes], c2[kPhiloxLanes], c3[kPhiloxLanes];
    alignas(kAlign) uint32_t words[4 * kPhiloxLanes];
    alignas(kAlign) T found[4 * kPhiloxLanes];
    const int64_t blocks = (plan.features + 3) / 4;
    for (int64_t start = 0; start < blocks; start += kPhiloxLanes) {
      for (int i = 0; i < kPhiloxLanes; ++i) {
        c0[i] = static_cast<uint64_t>(start + i);
        c2[i] = row & 0xFFFFFFFFu;
        c3[i] = row >> 32;
      }
      philox(c0, c2, c3, request.seed, words, kPhiloxLanes);
      thresholds<T>(words, found, 4 * kPhiloxLanes);
      for (int i = 0; i < kPhiloxLanes; ++i)
        for (int w = 0; w < 4; ++w) limits[(start + i) * 4 + w] = found[w * kPhiloxLanes + i];
    }
  }

  void draw(const Step& step, T* out) {
    for (int32_t i = 0; i < step.count; ++i) {
      const int64_t index = step.first + i - plan.x_slot;
      const T logit = values[plan.param_slots[index]];
      const T x = logit > limits[plan.noise_steps[index]] ? T(1) : T(0);
      nan_seen |= logit != logit;
      values[step.first + i] = x;
      out[plan.variables[index]] = x;
      if (request.log_prob != nullptr)
        log_prob += static_cast<double>((-softplus_<T>(splat<T>(x > T(0) ? -logit : logit)))[0]);
    }
    for (int32_t i = 0; i < step.count; ++i) propagate(step.first + i);
  }

  void run(int64_t row) {
    std::memcpy(values, plan.bias, static_cast<size_t>(padded_slots(plan)) * sizeof(T));
    make_limits(request.noise_row(row));
    const int64_t source = plan.num_context_units ? (request.row_offset + row) / request.rows_per_context : 0;
    for (int64_t i = 0; i < plan.num_context_units; ++i) {
      values[plan.context_slot + i] = request.context[source * plan.context_features + plan.context_units[i]];
      propagate(plan.context_slot + i);
    }
    T* out = request.out + row * plan.features;
    for (const Step* step = plan.steps; step != plan.steps + plan.num_steps; ++step) {
      T* first = values + step->first;
      switch (step->kind) {
        case Kind::affine:
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
          draw(*step, out);
          continue;
      }
      // A parameter over which its variable will be drawn is read by that draw alone.
      const bool drawn_over = step->first >= plan.x_slot && step->first < plan.x_slot + plan.features;
      for (int32_t i = 0; i < step->count && !drawn_over; ++i) propagate(step->first + i);
    }
    if (request.log_prob != nullptr) request.log_prob[row] = static_cast<T>(log_prob);
  }
};

template <class T>
bool draw_row(const Plan<T>& plan, const Request<T>& request, int64_t row, T* scratch) {
  Row<T> state{plan, request, scratch, scratch + padded_slots(plan)};
  state.run(row);
  return state.nan_seen;
}
