// Draws one variable in some vectors of rows, from its parameters. The torch code of made_fast/outputs is the
// definition.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/mixtures-inl.h"
#include "engine/noise-inl.h"
#include "engine/processor-inl.h"
#include "engine/special-inl.h"
#include "engine/truncation-inl.h"
#include "plan/conditional.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// What one variable of some rows is held to, by lane.
template <class T>
struct Lanes {
  using Mask = typename Simd<T>::Scalar;
  bool any_observed, constrained;
  const Mask* observed;           // -1 or 0
  const T* given;                 // read where observed
  const uint8_t* const* support;  // flags of the variable's values; read if it is constrained and of finite size
  const T *lower, *upper;         // read if it is constrained and a real number
};

template <class T>
struct DrawTask {
  const Conditional<T>* conditional;
  const T* params;  // parameter k of lane r is params[k * stride + r]
  int64_t stride;
  const uint32_t* words;  // noise of uniform i in lane r: words[i * words_stride + r]
  int64_t words_stride;
  const Decoding<T>* decoding;
  const Lanes<T>* lanes;       // null without conditions
  T* room;                     // rooms_of(conditional) vectors
  T *x, *log_prob, *log_mass;  // by lane, written; log_prob, which log_mass of given values needs, and log_mass or null
};

// One vector of a task.
template <class T>
struct VectorDraw {
  const DrawTask<T>& task;
  int at;  // first lane
  const Conditional<T>& conditional = *task.conditional;
  const Decoding<T>& decoding = *task.decoding;
  Params<T> params{task.params + at, task.stride};
  Vec<T> x{}, log_mass{};
  Vec<T> log_prob{};          // of x
  bool has_log_prob = false;  // whether the draw found it on the way

  MADE_FAST_INLINE Vec<T> u(int64_t i) const { return uniform<T>(task.words + i * task.words_stride + at); }
  MADE_FAST_INLINE bool constrained() const { return task.lanes != nullptr && task.lanes->constrained; }
  MADE_FAST_INLINE Mixture<T> mixture() const {
    return {conditional, params, task.room + conditional.size * kLanes<T>};
  }

  // Flags of value k: all bits set where it is allowed.
  MADE_FAST_INLINE Int<T> allowed(int64_t k) const {
    Int<T> found;
    for (int i = 0; i < kLanes<T>; ++i)
      found[i] = -static_cast<typename Simd<T>::Scalar>(task.lanes->support[at + i][k]);
    return found;
  }

  MADE_FAST_INLINE Vec<T> binary_log_prob(Vec<T> value) const {
    const Vec<T> logit = params(0);
    return -softplus_<T>(value > T(0) ? -logit : logit);
  }

  MADE_FAST_INLINE void draw_binary(T low) {
    alignas(kAlign) T limit[kLanes<T>] = {};
    if (!decoding.greedy) thresholds<T>(task.words + at, limit, kLanes<T>);  // those of a plain draw, bit for bit
    x = params(0) * decoding.inverse_temperature > load<T>(limit) ? splat<T>(1) : splat<T>(low);
    if (!constrained()) return;
    const Int<T> high_allowed = allowed(1), both = allowed(0) & high_allowed;
    x = both ? x : high_allowed ? splat<T>(1) : splat<T>(low);
    log_mass = both ? Vec<T>{} : binary_log_prob(x);
  }

  // Categories from weights relative to the greatest of all or, where that is far above them, to the greatest that is
  // allowed; log_mass is the log of the share that is allowed.
  template <class LogWeight>
  MADE_FAST_INLINE void choose_allowed(int64_t count, const LogWeight& log_weight, Vec<T> most) {
    Vec<T> whole{}, first_allowed{}, number = splat<T>(T(count)), kept, most_allowed = splat<T>(-Simd<T>::greatest);
    Int<T> everything = ~Int<T>{};
    for (int64_t k = count - 1; k >= 0; --k) {
      number -= T(1);
      const Int<T> flags = allowed(k);
      everything &= flags;
      first_allowed = flags ? number : first_allowed;
      most_allowed = flags ? at_least<T>(log_weight(k), most_allowed) : most_allowed;
    }
    const Int<T> far = most - most_allowed > T(16);
    const Vec<T> base = far ? most_allowed : most;
    const bool any_far = any_lane<T>(far);
    const auto weight = [&](int64_t k) {
      const Vec<T> nats = log_weight(k), w = weight_of<T>(nats - base);
      whole += any_far ? weight_of<T>(nats - most) : w;
      return allowed(k) ? w : Vec<T>{};
    };
    const Vec<T> chosen = choose<T>(count, weight, u(0), task.room, kept);
    x = kept > T(0) ? chosen : first_allowed;
    log_mass = everything ? Vec<T>{} : (base - most) + log_<T>(kept) - log_<T>(whole);
  }

  MADE_FAST_INLINE void draw_categorical() {
    const int64_t count = conditional.size;
    if (decoding.greedy) {
      x = first_greatest<T>(count, params);
      return;
    }
    const Vec<T> most = greatest<T>(count, params);
    if (constrained()) return choose_allowed(count, params, most);
    const auto weight = [&](int64_t k) { return weight_of<T>((params(k) - most) * decoding.inverse_temperature); };
    Vec<T> total;
    if (decoding.top_k == 0 && !(decoding.top_p < T(1))) {
      x = choose<T>(count, weight, u(0), task.room, total);
      if (decoding.inverse_temperature != T(1) || task.log_prob == nullptr) return;
      log_prob = (pick<T>(params.first, params.stride, x) - most) - log_<T>(total);
      has_log_prob = true;
    } else {
      for (int64_t k = 0; k < count; ++k) store<T>(task.room + k * kLanes<T>, weight(k));
      truncate<T>(task.room, count, decoding);
      x = choose<T>(count, Params<T>{task.room, kLanes<T>}, u(0), task.room, total);
    }
  }

  MADE_FAST_INLINE Vec<T> categorical_log_prob(Vec<T> value) const {
    const Vec<T> most = greatest<T>(conditional.size, params);
    Vec<T> total{};
    for (int64_t k = 0; k < conditional.size; ++k) total += weight_of<T>(params(k) - most);
    return (pick<T>(params.first, params.stride, value) - most) - log_<T>(total);
  }

  // A normal between the bounds of a lane, in double whatever T.
  MADE_FAST_INLINE TruncatedNormal truncated(int lane, T loc, T scale) const {
    return {static_cast<double>(loc), static_cast<double>(scale), static_cast<double>(task.lanes->lower[at + lane]),
            static_cast<double>(task.lanes->upper[at + lane])};
  }

  MADE_FAST_INLINE Vec<T> normal_scale() const { return softplus_<T>(params(1)) + conditional.floor; }

  MADE_FAST_INLINE void draw_normal() {
    if (constrained()) return draw_normal_within(params(0), normal_scale(), u(0));
    x = decoding.greedy ? params(0) : params(0) + normal_scale() * decoding.root_temperature * normal_quantile<T>(u(0));
  }

  MADE_FAST_INLINE void draw_normal_within(Vec<T> loc, Vec<T> scale, Vec<T> uniforms) {
    const KeepDenormals keep;
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const TruncatedNormal normal = truncated(lane, loc[lane], scale[lane]);
      x[lane] = static_cast<T>(normal.draw(static_cast<double>(uniforms[lane])));
      log_mass[lane] = static_cast<T>(normal.log_mass);
    }
  }

  MADE_FAST_INLINE Vec<T> choose_component(const Mixture<T>& own) const {
    const Vec<T> most = greatest<T>(own.count(), own.logits);
    const auto weight = [&](int64_t j) { return weight_of<T>((own.logits(j) - most) * decoding.inverse_temperature); };
    Vec<T> total;
    return choose<T>(own.count(), weight, u(0), own.terms(), total);
  }

  MADE_FAST_INLINE void draw_normals() {
    const Mixture<T> own = mixture();
    const int64_t count = own.count();
    const Params<T> locs = params.from(count);
    if (decoding.greedy) {
      own.prepare();
      const auto density = [&](int64_t j) { return own.log_prob(own.loc(j)); };
      x = pick<T>(locs.first, locs.stride, first_greatest<T>(count, density));
      return;
    }
    if (constrained()) return draw_normals_within(own);
    const Vec<T> component = choose_component(own);
    const Vec<T> raw = pick<T>(params.from(2 * count).first, params.stride, component);
    const Vec<T> scale = (softplus_<T>(raw) + conditional.floor) * decoding.root_temperature;
    x = pick<T>(locs.first, locs.stride, component) + scale * normal_quantile<T>(u(1));
  }

  // A component by its mass between the bounds, relative to the greatest, then a draw between them; lane by lane.
  MADE_FAST_INLINE void draw_normals_within(const Mixture<T>& own) {
    own.prepare();
    const int64_t count = own.count();
    const Vec<T> first = u(0), second = u(1);
    double* weights = reinterpret_cast<double*>(own.terms());  // no more than a vector of T for each component
    const KeepDenormals keep;
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const auto of = [&](const T* values, int64_t j) { return values[j * kLanes<T> + lane]; };
      const auto normal = [&](int64_t j) { return truncated(lane, own.loc(j)[lane], of(own.scales(), j)); };
      double most = -__builtin_inf(), total = 0;
      for (int64_t j = 0; j < count; ++j) {
        weights[j] = static_cast<double>(of(own.log_weights(), j)) + normal(j).log_mass;
        most = weights[j] > most ? weights[j] : most;
      }
      const bool possible = most > -__builtin_inf();
      for (int64_t j = 0; j < count; ++j) {
        const double nats = possible ? weights[j] - most : static_cast<double>(of(own.log_weights(), j));
        total += weights[j] = __builtin_exp(nats);
      }
      const int64_t component = choose_scalar(weights, count, static_cast<double>(first[lane]) * total);
      x[lane] = static_cast<T>(normal(component).draw(static_cast<double>(second[lane])));
      log_mass[lane] = static_cast<T>(most + __builtin_log(total));
    }
  }

  MADE_FAST_INLINE void draw_logistics() {
    const Mixture<T> own = mixture();
    const int64_t count = own.count();
    const T last = static_cast<T>(conditional.size - 1);
    if (decoding.greedy || constrained()) {
      own.prepare();
      Vec<T> level{};
      for (int64_t k = 0; k < conditional.size; ++k, level += T(1))
        store<T>(task.room + k * kLanes<T>, own.log_prob(level));
      const Params<T> levels{task.room, kLanes<T>};
      if (decoding.greedy)
        x = first_greatest<T>(conditional.size, levels);
      else
        choose_allowed(conditional.size, levels, greatest<T>(conditional.size, levels));
      return;
    }
    const Vec<T> component = choose_component(own);
    const Vec<T> raw = pick<T>(params.from(2 * count).first, params.stride, component);
    const Vec<T> scale = (softplus_<T>(raw) + conditional.floor) * decoding.temperature;
    const Vec<T> y = pick<T>(params.from(count).first, params.stride, component) + scale * logistic_quantile<T>(u(1));
    const Vec<T> place = (y + T(1)) * (last * T(0.5)) + T(0.5);
    const Vec<T> inside = at_most<T>(at_least<T>(place, Vec<T>{}), splat<T>(last));
    x = __builtin_convertvector(__builtin_convertvector(inside, Int<T>), Vec<T>);  // not negative: rounds down
  }

  MADE_FAST_INLINE void draw_own() {
    T* found = task.room;  // x may lie over the parameters
    float* uniforms = reinterpret_cast<float*>(found + kLanes<T>);
    for (int64_t i = 0; i < conditional.num_draws; ++i)
      for (int lane = 0; lane < kLanes<T>; ++lane)
        uniforms[i * task.stride + lane] =
            static_cast<float>(task.words[i * task.words_stride + at + lane] >> 8) * 0x1p-24f;
    conditional.own(params.first, uniforms, found, kLanes<T>, task.stride);
    x = load<T>(found);
  }

  MADE_FAST_INLINE void draw() {
    switch (conditional.code) {
      case Code::bernoulli:
        return draw_binary(0);
      case Code::spin:
        return draw_binary(-1);
      case Code::categorical:
        return draw_categorical();
      case Code::normal:
        return draw_normal();
      case Code::mixture_of_normals:
        return draw_normals();
      case Code::mixture_of_logistics:
        return draw_logistics();
      case Code::own:
        return draw_own();
      case Code::point:
        x = params(0);
        return;
    }
  }

  // Of the untempered model.
  MADE_FAST_INLINE Vec<T> log_prob_of(Vec<T> value) const {
    switch (conditional.code) {
      case Code::bernoulli:
      case Code::spin:
        return binary_log_prob(value);
      case Code::categorical:
        return categorical_log_prob(value);
      case Code::normal:
        return normal_log_prob<T>(params(0), normal_scale(), value);
      case Code::mixture_of_normals:
      case Code::mixture_of_logistics:
        mixture().prepare();
        return mixture().log_prob(value);
      case Code::point:
        return conditional.num_params > 1 ? params(1) : Vec<T>{};
      case Code::own:
        break;
    }
    return Vec<T>{};
  }

  MADE_FAST_INLINE void run() {
    const bool any_observed = task.lanes != nullptr && task.lanes->any_observed;
    Int<T> observed{};
    if (any_observed) std::memcpy(&observed, task.lanes->observed + at, sizeof observed);
    if (!any_observed || any_lane<T>(~observed)) draw();
    if (any_observed) x = observed ? load<T>(task.lanes->given + at) : x;
    if (task.log_prob != nullptr) {
      if (!has_log_prob || any_observed) log_prob = log_prob_of(x);
      store<T>(task.log_prob + at, log_prob);
    }
    if (task.log_mass != nullptr) store<T>(task.log_mass + at, observed ? log_prob : log_mass);
    store<T>(task.x + at, x);  // perhaps over the parameters
  }
};

// Returns whether a parameter was nan, or one of a point not finite: what follows would depend on how zeros are
// skipped.
template <class T>
MADE_FAST_NOINLINE bool draw_conditional(const DrawTask<T>& task, int vectors) {
  const bool point = task.conditional->code == Code::point;
  Int<T> nan_lanes{};
  for (int v = 0; v < vectors; ++v) {
    VectorDraw<T> one{task, v * kLanes<T>};
    for (int64_t k = 0; k < task.conditional->num_params; ++k) {
      const Vec<T> value = one.params(k);
      nan_lanes |= point ? value - value != T(0) : value != value;
    }
    one.run();
  }
  return any_lane<T>(nan_lanes);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
