// Vectors of the widest register of this build, and the functions of one vector. Included by engine.cpp only, inside
// the namespace of its instruction set. Everything is written with the compilers' vector types: one source for all
// processors.
#pragma once

#if defined(__AVX512F__)
#define MADE_FAST_VECTOR_BYTES 64
#define MADE_FAST_REGISTERS 32
#elif defined(__AVX__)
#define MADE_FAST_VECTOR_BYTES 32
#define MADE_FAST_REGISTERS 16
#elif defined(__aarch64__)
#define MADE_FAST_VECTOR_BYTES 16
#define MADE_FAST_REGISTERS 32
#else
#define MADE_FAST_VECTOR_BYTES 16
#define MADE_FAST_REGISTERS 16
#endif

typedef float VecF __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));
typedef int32_t IntF __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));
typedef int64_t IntD __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));

template <class T>
struct Simd;

template <>
struct Simd<float> {
  using Vec = VecF;
  using Int = IntF;
  using Scalar = int32_t;
  static constexpr int mantissa_bits = 23, exponent_bias = 127, exp_terms = 7, log1p_terms = 6;
  static constexpr float round_magic = 12582912.0f, exp_min = -87.33f, exp_max = 88.37f;
  static constexpr float greatest = __FLT_MAX__;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.428606765330187e-06f;
};

template <>
struct Simd<double> {
  using Vec = VecD;
  using Int = IntD;
  using Scalar = int64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, exp_terms = 13, log1p_terms = 15;
  static constexpr double round_magic = 6755399441055744.0, exp_min = -708.3, exp_max = 709.4;
  static constexpr double greatest = __DBL_MAX__;
  static constexpr double ln2_high = 0.69314718036912381649, ln2_low = 1.9082149292705877e-10;
};

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
using Int = typename Simd<T>::Int;
template <class T>
constexpr int kLanes = MADE_FAST_VECTOR_BYTES / static_cast<int>(sizeof(T));

#define MADE_FAST_INLINE inline __attribute__((always_inline))

// to[i] = from[places[i]]. The compiler would make gather instructions of a plain loop, which take twice as long on
// AMD; the empty assembly keeps it from that.
template <class T>
MADE_FAST_INLINE void gather(T* to, const T* from, const int32_t* places, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const T a = from[places[i]], b = from[places[i + 1]], c = from[places[i + 2]], d = from[places[i + 3]];
    asm volatile("");
    to[i] = a;
    to[i + 1] = b;
    to[i + 2] = c;
    to[i + 3] = d;
  }
  for (; i < count; ++i) {
    to[i] = from[places[i]];
    asm volatile("");
  }
}

// to[places[i]] = from[i], or += with kAdd.
template <class T, bool kAdd>
MADE_FAST_INLINE void scatter(T* to, const T* from, const int32_t* places, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[places[i]] = kAdd ? to[places[i]] + from[i] : from[i];
    asm volatile("");
  }
}

template <class T>
MADE_FAST_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, __builtin_assume_aligned(p, sizeof v), sizeof v);
  return v;
}
template <class T>
MADE_FAST_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(__builtin_assume_aligned(p, sizeof v), &v, sizeof v);
}
template <class To, class From>
MADE_FAST_INLINE To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <class T>
MADE_FAST_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}
template <class T>
MADE_FAST_INLINE Vec<T> max0(Vec<T> x) {
  return x > T(0) ? x : (x != x ? x : Vec<T>{});  // keeps nan, as torch does
}
template <class T>
MADE_FAST_INLINE Vec<T> absolute(Vec<T> x) {
  return x < T(0) ? -x : x;
}

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

template <class T>
MADE_FAST_INLINE Vec<T> sigmoid_(Vec<T> x) {
  return T(1) / (exp_<T>(-x) + T(1));
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
  return x;
}

// Transposes a square of one vector each way: swaps the off-diagonal halves, then those of the quarters, and so on.
template <class T, int half>
MADE_FAST_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (half > 0) {
    constexpr int n = kLanes<T>;
#if defined(__clang__)
    Vec<T> copy[n];
    for (int i = 0; i < n; ++i) copy[i] = rows[i];
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) rows[j][i] = copy[i][j];
#else
    Int<T> low{}, high{};
#pragma GCC unroll 16
    for (int j = 0; j < n; ++j) {
      low[j] = j & half ? n + j - half : j;
      high[j] = j & half ? n + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      if (i & half) continue;
      const Vec<T> a = rows[i], b = rows[i + half];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + half] = __builtin_shuffle(a, b, high);
    }
    transpose<T, half / 2>(rows);
#endif
  }
}
