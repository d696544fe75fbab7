// Categories and mixtures in one vector of rows: weights, the categorical rule, log-densities.
#pragma once

#include <cstdint>

#include "engine/special-inl.h"
#include "plan/conditional.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Consecutive parameters in one vector of rows.
template <class T>
struct Params {
  const T* first;
  int64_t stride;
  MADE_FAST_INLINE Vec<T> operator()(int64_t k) const { return load<T>(first + k * stride); }
  MADE_FAST_INLINE Params from(int64_t k) const { return {first + k * stride, stride}; }
};

template <class T, class Value>
MADE_FAST_INLINE Vec<T> greatest(int64_t count, const Value& value) {
  Vec<T> most = value(0);
  for (int64_t k = 1; k < count; ++k) most = at_least<T>(value(k), most);
  return most;
}

// The categorical rule: how many running sums are at most u * total, at most the last category of weight > 0. `room`
// takes `count` vectors.
template <class T, class Weight>
MADE_FAST_INLINE Vec<T> choose(int64_t count, const Weight& weight, Vec<T> u, T* room, Vec<T>& total) {
  Vec<T> sum{}, last{}, number{};
  for (int64_t k = 0; k < count; ++k) {
    const Vec<T> w = weight(k);
    sum += w;
    store<T>(room + k * kLanes<T>, sum);
    last = w > T(0) ? number : last;
    number += T(1);
  }
  total = sum;
  const Vec<T> limit = u * sum;
  Vec<T> found{};
  for (int64_t k = 0; k < count; ++k) found += load<T>(room + k * kLanes<T>) <= limit ? splat<T>(1) : Vec<T>{};
  return at_most<T>(found, last);
}

// The same of the weights of one lane, and their running sum that must be passed.
inline int64_t choose_scalar(const double* weights, int64_t count, double limit) {
  int64_t last = count - 1;
  while (last > 0 && !(weights[last] > 0)) --last;
  double sum = 0;
  for (int64_t k = 0; k < last; ++k) {
    sum += weights[k];
    if (sum > limit) return k;
  }
  return last;
}

// The first of the greatest values.
template <class T, class Value>
MADE_FAST_INLINE Vec<T> first_greatest(int64_t count, const Value& value) {
  Vec<T> most = value(0), found{}, number{};
  for (int64_t k = 1; k < count; ++k) {
    number += T(1);
    const Vec<T> v = value(k);
    found = v > most ? number : found;
    most = v > most ? v : most;
  }
  return found;
}

// out[lane] = values[number of the lane * stride + lane]
template <class T>
MADE_FAST_INLINE Vec<T> pick(const T* values, int64_t stride, Vec<T> number) {
  alignas(kAlign) T lanes[kLanes<T>];
  store<T>(lanes, number);
  for (int i = 0; i < kLanes<T>; ++i) lanes[i] = values[static_cast<int64_t>(lanes[i]) * stride + i];
  return load<T>(lanes);
}

// log of a sum of exponentials of `count` vectors; -inf where all of them are.
template <class T>
MADE_FAST_INLINE Vec<T> log_sum_exp(const T* values, int64_t count) {
  const Params<T> value{values, kLanes<T>};
  const Vec<T> most = at_least<T>(greatest<T>(count, value), splat<T>(-Simd<T>::greatest));
  Vec<T> sum{};
  for (int64_t k = 0; k < count; ++k) sum += weight_of<T>(value(k) - most);
  return most + log_<T>(sum);
}

// -z^2 / 2 - log s - log(2 pi) / 2; the half of z^2 may be a number where z^2 is none.
template <class T>
MADE_FAST_INLINE Vec<T> normal_log_prob(Vec<T> loc, Vec<T> scale, Vec<T> x) {
  const Vec<T> z = (x - loc) / scale;
  const Vec<T> half_square = absolute<T>(z) > T(1e18) ? z * T(-0.5) * z : z * z * T(-0.5);
  return half_square - log_<T>(scale) - T(kHalfLog2Pi);
}

// Parameters are logits, locations, raw scales, `components` of each.
template <class T>
struct Mixture {
  const Conditional<T>& conditional;
  Params<T> logits;
  T* room;

  MADE_FAST_INLINE int64_t count() const { return conditional.components; }
  MADE_FAST_INLINE Vec<T> loc(int64_t j) const { return logits(count() + j); }
  MADE_FAST_INLINE Vec<T> scale(int64_t j) const { return softplus_<T>(logits(2 * count() + j)) + conditional.floor; }
  MADE_FAST_INLINE T* log_weights() const { return room; }
  MADE_FAST_INLINE T* scales() const { return room + count() * kLanes<T>; }
  MADE_FAST_INLINE T* insides() const { return room + 2 * count() * kLanes<T>; }
  MADE_FAST_INLINE T* terms() const { return room + 3 * count() * kLanes<T>; }

  // Log-weights and scales of the components; for logistics also the log of 1 - exp(-(width of a level) / scale).
  MADE_FAST_INLINE void prepare() const {
    const Vec<T> most = greatest<T>(count(), logits);
    Vec<T> sum{};
    for (int64_t j = 0; j < count(); ++j) sum += weight_of<T>(logits(j) - most);
    const Vec<T> log_sum = log_<T>(sum);
    for (int64_t j = 0; j < count(); ++j) {
      const Vec<T> s = scale(j);
      store<T>(log_weights() + j * kLanes<T>, (logits(j) - most) - log_sum);
      store<T>(scales() + j * kLanes<T>, s);
      if (conditional.code == Code::mixture_of_logistics) store<T>(insides() + j * kLanes<T>, log_inside(s));
    }
  }

  // log(1 - exp(-width / s)); of a width that is nothing beside s that is log(width / s), though the ratio may be 0.
  MADE_FAST_INLINE Vec<T> log_inside(Vec<T> s) const {
    const Vec<T> ratio = conditional.scale / s;
    const Int<T> little = ratio < T(1e-30);
    const Vec<T> found = log_<T>(-expm1_<T>(-ratio));
    return any_lane<T>(little) ? little ? log_ratio<T>(splat<T>(conditional.scale), s) : found : found;
  }

  // log(sigmoid(b) - sigmoid(a)) between the edges of the level x
  MADE_FAST_INLINE Vec<T> logistic_log_prob(int64_t j, Vec<T> x) const {
    const T half = conditional.scale * T(0.5);
    const Vec<T> s = load<T>(scales() + j * kLanes<T>);
    const Vec<T> centred = (x * conditional.scale + conditional.shift) - loc(j);
    const Int<T> first = x <= T(0), last = x >= T(conditional.size - 1);
    const Vec<T> below = softplus_<T>((centred - half) / s), above = softplus_<T>(-(centred + half) / s);
    const Vec<T> inside = load<T>(insides() + j * kLanes<T>);
    const Vec<T> whole = (inside - below) - above;
    return first ? (last ? Vec<T>{} : -above) : last ? -below : whole;
  }

  // After `prepare`.
  MADE_FAST_INLINE Vec<T> log_prob(Vec<T> x) const {
    for (int64_t j = 0; j < count(); ++j) {
      const Vec<T> own = conditional.code == Code::mixture_of_logistics
                             ? logistic_log_prob(j, x)
                             : normal_log_prob<T>(loc(j), load<T>(scales() + j * kLanes<T>), x);
      store<T>(terms() + j * kLanes<T>, load<T>(log_weights() + j * kLanes<T>) + own);
    }
    return log_sum_exp<T>(terms(), count());
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
