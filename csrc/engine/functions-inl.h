// The functions of one vector that networks and conditionals are made of, and those of arrays of units.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/simd-inl.h"
#include "plan/codes.h"

namespace made_fast {
namespace MADE_FAST_ISA {

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }

// e^x = scale * (1 + fraction), with |fraction| < 0.42. Taylor's series is exact enough on |r| <= ln(2) / 2.
template <class T>
MADE_FAST_INLINE void split_exp(Vec<T> x, Vec<T>& scale, Vec<T>& fraction) {
  using S = Simd<T>;
  x = x < S::exp_min ? splat<T>(S::exp_min) : x;
  x = x > S::exp_max ? splat<T>(S::exp_max) : x;
  const Vec<T> shifted = x * T(1.4426950408889634074) + S::round_magic;
  const Vec<T> n = shifted - S::round_magic;
  const Vec<T> r = (x - n * S::ln2_high) - n * S::ln2_low;
  Vec<T> series = splat<T>(static_cast<T>(1 / factorial(S::exp_terms)));
#pragma GCC unroll 16
  for (int k = S::exp_terms - 1; k >= 1; --k) series = series * r + static_cast<T>(1 / factorial(k));
  fraction = series * r;
  // The low bits of `shifted` hold n as an integer; the bits of round_magic above them fall off the top.
  const Int<T> bits = bits_as<Int<T>>(shifted);
  const Int<T> exponent = (bits + typename S::Scalar(S::exponent_bias)) << S::mantissa_bits;
  scale = bits_as<Vec<T>>(exponent);
}

template <class T>
MADE_FAST_INLINE Vec<T> exp_(Vec<T> x) {
  Vec<T> scale, fraction;
  split_exp<T>(x, scale, fraction);
  return scale * fraction + scale;
}

// The same to both ends of the range of T and beyond, where it is 0 or infinity. Near the ends exp_ is clamped, and its
// summand is lost among the denormal numbers: there it is the square of the root.
template <class T>
MADE_FAST_INLINE Vec<T> whole_exp(Vec<T> x) {
  const Vec<T> root = exp_<T>(x * T(0.5)), inside = exp_<T>(x);
  return absolute<T>(x) > T(0.8) * Simd<T>::exp_max ? root * root : inside;
}

template <class T>
MADE_FAST_INLINE Vec<T> expm1_(Vec<T> x) {
  Vec<T> scale, fraction;
  split_exp<T>(x, scale, fraction);
  return scale * fraction + (scale - T(1));
}

// log((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), for |s| <= 1/3
template <class T>
MADE_FAST_INLINE Vec<T> twice_atanh(Vec<T> s, int terms) {
  const Vec<T> s2 = s * s;
  Vec<T> series = splat<T>(T(1) / T(2 * terms + 1));
#pragma GCC unroll 20
  for (int k = terms - 1; k >= 0; --k) series = series * s2 + T(1) / T(2 * k + 1);
  return (s + s) * series;
}

// log(1 + y) for y in [0, 1]
template <class T>
MADE_FAST_INLINE Vec<T> log1p_(Vec<T> y) {
  return twice_atanh<T>(y / (y + T(2)), Simd<T>::log1p_terms);
}

// log(a / b) for normal a, b > 0, with one division.
template <class T>
MADE_FAST_INLINE Vec<T> log_ratio(Vec<T> a, Vec<T> b) {
  using S = Simd<T>;
  using I = typename S::Scalar;
  constexpr I fraction_mask = (I(1) << S::mantissa_bits) - 1;
  constexpr I one = I(S::exponent_bias) << S::mantissa_bits;
  const Int<T> a_bits = bits_as<Int<T>>(a), b_bits = bits_as<Int<T>>(b);
  const Int<T> exponent = (a_bits >> S::mantissa_bits) - (b_bits >> S::mantissa_bits);
  const Vec<T> x = bits_as<Vec<T>>((a_bits & fraction_mask) | one), y = bits_as<Vec<T>>((b_bits & fraction_mask) | one);
  const Vec<T> e = __builtin_convertvector(exponent, Vec<T>);
  return (e * S::ln2_high + twice_atanh<T>((x - y) / (x + y), S::log1p_terms)) + e * S::ln2_low;  // x / y in (1/2, 2)
}

// 0 where exp_ is clamped: what is left there would show in the product with a large number.
template <class T>
MADE_FAST_INLINE Vec<T> sigmoid_(Vec<T> x) {
  return x < -Simd<T>::exp_max ? Vec<T>{} : T(1) / (exp_<T>(-x) + T(1));
}

// log(1 + e^x)
template <class T>
MADE_FAST_INLINE Vec<T> softplus_(Vec<T> x) {
  return max0<T>(x) + log1p_<T>(exp_<T>(-absolute<T>(x)));
}

template <class T>
MADE_FAST_INLINE Vec<T> tanh_(Vec<T> x) {
  const Vec<T> e = expm1_<T>(absolute<T>(x) * T(2));
  const Vec<T> t = e / (e + T(2));
  return x < T(0) ? -t : t;
}

MADE_FAST_INLINE float erf_scalar(float x) { return __builtin_erff(x); }
MADE_FAST_INLINE double erf_scalar(double x) { return __builtin_erf(x); }

template <class T>
MADE_FAST_INLINE Vec<T> gelu_(Vec<T> x) {
  Vec<T> e = x * T(0.70710678118654752440);
  for (int i = 0; i < kLanes<T>; ++i) e[i] = erf_scalar(e[i]);
  return x * T(0.5) * (e + T(1));
}

// Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing Neural Networks", NIPS 2017.
constexpr double kSeluScale = 1.0507009873554804934193349852946, kSeluAlpha = 1.6732632423543772848170429916717;

template <class T>
MADE_FAST_INLINE Vec<T> call(Function function, Vec<T> x) {
  switch (function) {
    case Function::identity:
      return x;
    case Function::relu:
      return max0<T>(x);
    case Function::leaky_relu:
      return x > T(0) ? x : x * T(0.01);
    case Function::elu:
      return x > T(0) ? x : expm1_<T>(x);
    case Function::selu:
      return x > T(0) ? x * T(kSeluScale) : expm1_<T>(x) * T(kSeluScale * kSeluAlpha);
    case Function::gelu:
      return gelu_<T>(x);
    case Function::silu:
      return x * sigmoid_<T>(x);
    case Function::softplus:
      return softplus_<T>(x);
    case Function::tanh:
      return tanh_<T>(x);
    case Function::sigmoid:
      return sigmoid_<T>(x);
    case Function::exp:
      return whole_exp<T>(x);
    case Function::reciprocal:
      return T(1) / x;
  }
  return splat<T>(__builtin_nanf(""));  // never: plans and products with another code are refused (plan/check.h)
}

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

// The function of one number, which need not go through memory to lie in a vector.
template <class T>
MADE_FAST_NOINLINE T call_one(Function function, T x) {
  Vec<T> alone{};
  alone[0] = x;
  return call<T>(function, alone)[0];
}

template <class T>
__attribute__((noinline)) void add(const T* left, const T* right, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = left[i] + right[i];
}

template <class T>
__attribute__((noinline)) void times(const T* left, const T* right, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = left[i] * right[i];
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
