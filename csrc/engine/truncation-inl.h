// Which categories top_k and top_p keep.
//
// Nothing is sorted. Weights are not negative, so their bits are integers in the same order: the least weight that is
// kept is found bit by bit, for all lanes at once, by counting (top_k) or weighing (top_p) what is at least as great.
#pragma once

#include <cstdint>

#include "engine/special-inl.h"
#include "plan/request.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// The greatest key for which `measure` of all weights with at least this key reaches `wanted`.
template <class T, class Measure>
MADE_FAST_INLINE Int<T> least_key(const T* weights, int64_t count, const Measure& measure, Vec<T> wanted) {
  using I = typename Simd<T>::Scalar;
  Int<T> key{};
  for (int bit = 8 * static_cast<int>(sizeof(T)) - 3; bit >= 0; --bit) {  // weights are at most 1
    const Int<T> candidate = key | (I(1) << bit);
    Vec<T> reached{};
    for (int64_t k = 0; k < count; ++k) {
      const Vec<T> w = load<T>(weights + k * kLanes<T>);
      reached += bits_as<Int<T>>(w) >= candidate ? measure(w) : Vec<T>{};
    }
    key = reached >= wanted ? candidate : key;
  }
  return key;
}

// Drops the weights below the least key, and of those that equal it the last ones, as soon as `wanted` is reached.
template <class T, class Measure>
MADE_FAST_INLINE void drop(T* weights, int64_t count, const Measure& measure, Vec<T> wanted) {
  const Int<T> least = least_key<T>(weights, count, measure, wanted);
  Vec<T> reached{};
  for (int64_t k = 0; k < count; ++k) {
    const Vec<T> w = load<T>(weights + k * kLanes<T>);
    reached += bits_as<Int<T>>(w) > least ? measure(w) : Vec<T>{};
  }
  for (int64_t k = 0; k < count; ++k) {
    const Vec<T> w = load<T>(weights + k * kLanes<T>);
    const Int<T> key = bits_as<Int<T>>(w), equal = (key == least) & (reached < wanted);
    reached += equal ? measure(w) : Vec<T>{};
    store<T>(weights + k * kLanes<T>, (key > least) | equal ? w : Vec<T>{});
  }
}

template <class T>
MADE_FAST_INLINE void truncate(T* weights, int64_t count, const Decoding<T>& decoding) {
  const auto one = [](Vec<T>) { return splat<T>(1); };
  const auto mass = [](Vec<T> w) { return w; };
  if (decoding.top_k > 0 && decoding.top_k < count) drop<T>(weights, count, one, splat<T>(T(decoding.top_k)));
  if (decoding.top_p < T(1)) {
    Vec<T> total{};
    for (int64_t k = 0; k < count; ++k) total += load<T>(weights + k * kLanes<T>);
    drop<T>(weights, count, mass, at_least<T>(total * decoding.top_p, splat<T>(Simd<T>::least)));  // one at least
  }
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
