// Vectors of the widest register of this build: loads, stores, transposes. Everything is written with the compilers'
// vector types: one source for all processors.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/isa-inl.h"

// The width of a vector and how many of them there are: a new instruction set has its case here, a line in engines.def
// and an entry in CMakeLists.txt, and nothing else.
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

namespace made_fast {
namespace MADE_FAST_ISA {

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
  static constexpr float greatest = __FLT_MAX__, least = __FLT_MIN__;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.428606765330187e-06f;
};

template <>
struct Simd<double> {
  using Vec = VecD;
  using Int = IntD;
  using Scalar = int64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, exp_terms = 13, log1p_terms = 15;
  static constexpr double round_magic = 6755399441055744.0, exp_min = -708.3, exp_max = 709.4;
  static constexpr double greatest = __DBL_MAX__, least = __DBL_MIN__;
  static constexpr double ln2_high = 0.69314718036912381649, ln2_low = 1.9082149292705877e-10;
};

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
using Int = typename Simd<T>::Int;
template <class T>
constexpr int kLanes = MADE_FAST_VECTOR_BYTES / static_cast<int>(sizeof(T));

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

template <class T>
MADE_FAST_INLINE bool any_lane(Int<T> mask) {
#if defined(__AVX512F__)
  const __m512i bits = bits_as<__m512i>(mask);
  return _mm512_test_epi32_mask(bits, bits) != 0;
#elif defined(__AVX2__)
  const __m256i bits = bits_as<__m256i>(mask);
  return _mm256_testz_si256(bits, bits) == 0;
#elif defined(__SSE4_1__)
  const __m128i bits = bits_as<__m128i>(mask);
  return _mm_testz_si128(bits, bits) == 0;
#else
  typename Simd<T>::Scalar found = 0;
  for (int i = 0; i < kLanes<T>; ++i) found |= mask[i];
  return found != 0;
#endif
}

// Transposes a square of n vectors of n lanes: swaps the off-diagonal halves, then those of the quarters, and so on.
template <class Vector, class Places, int n, int half = n / 2>
MADE_FAST_INLINE void transpose_square(Vector (&rows)[n]) {
  if constexpr (half > 0) {
#if defined(__clang__)
    Vector copy[n];
    for (int i = 0; i < n; ++i) copy[i] = rows[i];
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) rows[j][i] = copy[i][j];
#else
    Places low{}, high{};
#pragma GCC unroll 16
    for (int j = 0; j < n; ++j) {
      low[j] = j & half ? n + j - half : j;
      high[j] = j & half ? n + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      if (i & half) continue;
      const Vector a = rows[i], b = rows[i + half];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + half] = __builtin_shuffle(a, b, high);
    }
    transpose_square<Vector, Places, n, half / 2>(rows);
#endif
  }
}

// A square of one vector each way.
template <class T>
MADE_FAST_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  transpose_square<Vec<T>, Int<T>, kLanes<T>>(rows);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
