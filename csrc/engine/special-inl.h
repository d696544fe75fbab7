// The functions of one vector that conditionals are made of: logarithms, quantiles, uniforms from words of noise.
#pragma once

#include <cstdint>

#include "engine/functions-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

constexpr float kInfinity = __builtin_inff();

// log x; -inf at 0
template <class T>
MADE_FAST_INLINE Vec<T> log_(Vec<T> x) {
  return x > T(0) ? log_ratio<T>(x, splat<T>(1)) : splat<T>(-kInfinity);
}

// e^x, 0 where that is below the least normal number
template <class T>
MADE_FAST_INLINE Vec<T> weight_of(Vec<T> x) {
  return x < Simd<T>::exp_min ? Vec<T>{} : exp_<T>(x);
}

template <class T>
MADE_FAST_INLINE Vec<T> sqrt_(Vec<T> x) {
  alignas(kAlign) T lanes[kLanes<T>];
  store<T>(lanes, x);
  for (T& lane : lanes)
    lane = static_cast<T>(sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(lane)) : __builtin_sqrt(lane));
  return load<T>(lanes);
}

template <class T>
MADE_FAST_INLINE Vec<T> at_most(Vec<T> x, Vec<T> bound) {
  return x < bound ? x : bound;
}

template <class T>
MADE_FAST_INLINE Vec<T> at_least(Vec<T> x, Vec<T> bound) {
  return x > bound ? x : bound;
}

// The uniforms of some words of noise, multiples of 2^-24 in [0, 1).
template <class T>
MADE_FAST_INLINE Vec<T> uniform(const uint32_t* words) {
  alignas(kAlign) T u[kLanes<T>];
  for (int j = 0; j < kLanes<T>; ++j) u[j] = static_cast<T>(static_cast<int32_t>(words[j] >> 8)) * T(0x1p-24);
  return load<T>(u);
}

// The nearer tail of u + 2^-25, which never rounds to 0 or 1: q in [2^-25, 1/2], exact; `upper` where it is 1 - q.
template <class T>
MADE_FAST_INLINE Vec<T> tail_of(Vec<T> u, Int<T>& upper) {
  upper = u >= T(0.5);
  return upper ? (T(1) - u) - T(0x1p-25) : u + T(0x1p-25);
}

// logit(u + 2^-25)
template <class T>
MADE_FAST_INLINE Vec<T> logistic_quantile(Vec<T> u) {
  Int<T> upper;
  const Vec<T> q = tail_of<T>(u, upper);
  const Vec<T> z = log_ratio<T>(q, T(1) - q);
  return upper ? -z : z;
}

// Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37, 1988; PPND16.
// Numerators and denominators, constants first: near the middle, in the tail, far out.
constexpr double kMiddle[2][8] = {
    {3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3, 1.3731693765509461125e+4,
     4.5921953931549871457e+4, 6.7265770927008700853e+4, 3.3430575583588128105e+4, 2.5090809287301226727e+3},
    {1.0, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3, 2.1213794301586595867e+4,
     3.9307895800092710610e+4, 2.8729085735721942674e+4, 5.2264952788528545610e+3}};
constexpr double kTail[2][8] = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
constexpr double kFarTail[2][8] = {
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};

template <class T, class Value>
MADE_FAST_INLINE Value rational(Value r, const double (&coefficients)[2][8]) {
  Value parts[2];
#pragma GCC unroll 2
  for (int part = 0; part < 2; ++part) {
    parts[part] = r * T(coefficients[part][7]) + T(coefficients[part][6]);
#pragma GCC unroll 6
    for (int k = 5; k >= 0; --k) parts[part] = parts[part] * r + T(coefficients[part][k]);
  }
  return parts[0] / parts[1];
}

// The normal quantile of u + 2^-25.
template <class T>
MADE_FAST_INLINE Vec<T> normal_quantile(Vec<T> u) {
  Int<T> upper;
  const Vec<T> q = tail_of<T>(u, upper);
  const Vec<T> centred = q - T(0.5);
  const Vec<T> middle = centred * rational<T, Vec<T>>(T(0.180625) - centred * centred, kMiddle);
  const Vec<T> tail = -rational<T, Vec<T>>(sqrt_<T>(-log_ratio<T>(q, splat<T>(1))) - T(1.6), kTail);
  const Vec<T> z = centred < T(-0.425) ? tail : middle;
  return upper ? -z : z;
}

// The normal quantile of any p in (0, 1).
inline double normal_quantile_scalar(double p) {
  const double centred = p - 0.5;
  if (__builtin_fabs(centred) <= 0.425) return centred * rational<double>(0.180625 - centred * centred, kMiddle);
  const double q = centred < 0 ? p : 1 - p;
  const double r = __builtin_sqrt(-__builtin_log(q > 0x1p-1022 ? q : 0x1p-1022));
  const double z = r <= 5 ? rational<double>(r - 1.6, kTail) : rational<double>(r - 5, kFarTail);
  return centred < 0 ? -z : z;
}

constexpr double kHalfLog2Pi = 0.91893853320467274178;

// cdf(-z) * exp(z^2 / 2) for z from 5.7 on.
// Source: Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, 1969.
inline double far_tail_ratio(double z) {
  const double s = 1 / (z * z);
  double top = 0.02307344176494017303 * s + 0.21589853405795699, low = s + 1.28426009614491121;
  constexpr double tops[] = {0.1274011611602473639, 0.022235277870649807, 0.001421619193227893466,
                             2.9112874951168792e-5};
  constexpr double lows[] = {0.468238212480865118, 0.0659881378689285515, 0.00378239633202758244,
                             7.29751555083966205e-5};
  for (int k = 0; k < 4; ++k) {
    top = top * s + tops[k];
    low = low * s + lows[k];
  }
  return (0.39894228040143267794 - s * top / low) / z;
}

// A normal distribution cut to [lower, upper], reflected where that brings it to the lower tail, which keeps its
// digits. Where its mass is a difference of two numbers that agree, or of two that are 0, it is found otherwise: in a
// narrow interval the density is a straight line, and far out it falls like an exponential. See Truncation of
// made_fast/outputs/normal.py.
class TruncatedNormal {
 public:
  double log_mass;

  TruncatedNormal(double loc, double scale, double lower, double upper)
      : loc_(loc), scale_(scale), lower_(lower), upper_(upper), width_((upper - lower) / scale) {
    low_ = (lower - loc) / scale;
    high_ = (upper - loc) / scale;
    reflected_ = low_ > 0;
    if (reflected_) {
      const double swapped = low_;
      low_ = -high_;
      high_ = -swapped;
    }
    narrow_ = width_ * (high_ < -1 ? -high_ : 1) < kNarrow;
    far_ = high_ < kFar;
    if (narrow_) {
      const double middle = 0.5 * (low_ + high_), square = middle * middle;
      log_mass =
          __builtin_log(width_) - 0.5 * square - kHalfLog2Pi + __builtin_log1p((square - 1) * (width_ * width_) / 24);
    } else if (far_) {
      const double ratio = far_tail_ratio(-high_);
      mass_ = -__builtin_expm1(0.5 * width_ * (low_ + high_) - __builtin_log(ratio / far_tail_ratio(-low_)));
      log_mass = __builtin_log(ratio) - 0.5 * high_ * high_ + __builtin_log(mass_);
    } else {
      below_ = cdf(low_);
      mass_ = cdf(high_) - below_;
      log_mass = __builtin_log(mass_);
    }
    if (log_mass != log_mass) log_mass = -__builtin_inf();
  }

  // The bound nearest to the location where nothing of the mass is left.
  double draw(double u) const {
    const double share = u + 0x1p-25;
    double x = loc_;
    if (log_mass == -__builtin_inf()) {
    } else if (narrow_ || far_) {
      const double step = scale_ * (narrow_ ? narrow_below(share) : far_below(1 - share));
      x = reflected_ ? lower_ + step : upper_ - step;
    } else {
      const double z = normal_quantile_scalar(below_ + share * mass_);
      x = loc_ + scale_ * (reflected_ ? -z : z);
    }
    return x < lower_ ? lower_ : x > upper_ ? upper_ : x;
  }

 private:
  static constexpr double kNarrow = 1e-3, kFar = -30;

  static double cdf(double z) { return 0.5 * __builtin_erfc(z * -0.70710678118654752440); }

  // How far below the upper end a share of the mass ends, in scales.
  double narrow_below(double share) const {
    const double rest = 1 - share;
    return width_ * (rest + 0.25 * (low_ + high_) * width_ * rest * share);
  }

  // Where log cdf(high) - log cdf(high - step) is what is wanted; each round adds three digits.
  double far_below(double rest) const {
    const double wanted = -__builtin_log1p(-rest * mass_), near = -high_, ratio = far_tail_ratio(near);
    double step = 0;
    for (int round = 0; round < 3; ++round) {
      const double left = wanted - __builtin_log(ratio / far_tail_ratio(near + step));
      step = 2 * left / (near + __builtin_sqrt(near * near + 2 * left));
    }
    return step;
  }

  double loc_, scale_, lower_, upper_, low_, high_, width_;
  double below_ = 0,
         mass_ = 0;  // the cdf at the lower end and the mass, or far out its share of all below the upper one
  bool reflected_, narrow_, far_;
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
