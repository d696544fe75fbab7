// Philox4x32-10 (made_fast/noise.py is the definition) and the thresholds made from it.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

constexpr int kPhiloxLanes = 16;

typedef uint64_t Wide __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));
constexpr int kWideLanes = MADE_FAST_VECTOR_BYTES / 8;

// The 64-bit products of the low halves; compilers do not find this instruction by themselves.
MADE_FAST_INLINE Wide multiply_low_halves(Wide a, Wide b) {
#if defined(__AVX512F__)
  return bits_as<Wide>(_mm512_maskz_mul_epu32(0xff, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif defined(__AVX2__)
  return bits_as<Wide>(_mm256_mul_epu32(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#elif defined(__SSE2__)
  return bits_as<Wide>(_mm_mul_epu32(bits_as<__m128i>(a), bits_as<__m128i>(b)));
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

MADE_FAST_INLINE void store_low_halves(Wide wide, uint32_t* out) {
  uint64_t lanes[kWideLanes];
  std::memcpy(lanes, &wide, sizeof wide);
  for (int i = 0; i < kWideLanes; ++i) out[i] = static_cast<uint32_t>(lanes[i]);
}

// Four words, `stride` apart, for each of 16 counters (c0, draw, c2, c3). The low half of each 64-bit lane is a word;
// the high half is noise.
inline void philox(const uint64_t* c0_in, uint64_t draw, const uint64_t* c2_in, const uint64_t* c3_in, uint64_t seed,
                   uint32_t* words, int stride) {
  const Wide m0 = 0xD2511F53u - Wide{}, m1 = 0xCD9E8D57u - Wide{};
#pragma GCC unroll 8
  for (int start = 0; start < kPhiloxLanes; start += kWideLanes) {
    Wide c0, c1 = draw - Wide{}, c2, c3;
    std::memcpy(&c0, c0_in + start, sizeof c0);
    std::memcpy(&c2, c2_in + start, sizeof c2);
    std::memcpy(&c3, c3_in + start, sizeof c3);
    uint64_t k0 = seed & 0xFFFFFFFFu, k1 = seed >> 32;
    for (int round = 0; round < 10; ++round) {
      const Wide p0 = multiply_low_halves(c0, m0), p1 = multiply_low_halves(c2, m1);
      c0 = (p1 >> 32) ^ c1 ^ k0;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9u;  // the carry into the high half is noise too
      k1 += 0xBB67AE85u;
    }
    store_low_halves(c0, words + 0 * stride + start);
    store_low_halves(c1, words + 1 * stride + start);
    store_low_halves(c2, words + 2 * stride + start);
    store_low_halves(c3, words + 3 * stride + start);
  }
}

// What beside the seed and the number of the draw decides four words: a block of four steps, and a row.
struct Counter {
  uint64_t block, row;
};

// The words of 16 counters, that of lane i being counter_of(i): those of the four steps of a block are `stride` apart.
template <class CounterOf>
MADE_FAST_INLINE void noise_words(const CounterOf& counter_of, uint64_t draw, uint64_t seed, uint32_t* words,
                                  int stride) {
  alignas(kAlign) uint64_t c0[kPhiloxLanes], c2[kPhiloxLanes], c3[kPhiloxLanes];
  for (int i = 0; i < kPhiloxLanes; ++i) {
    const Counter counter = counter_of(i);
    c0[i] = counter.block;
    c2[i] = counter.row & 0xFFFFFFFFu;
    c3[i] = counter.row >> 32;
  }
  philox(c0, draw, c2, c3, seed, words, stride);
}

// Few rows fill 16 counters with blocks that follow one another: lane i is block i >> shift of row i & mask.
struct Lanes16 {
  int mask, shift;

  // Lanes repeat after `period` rows: 1, 2, 4 or 8; or each is a row.
  explicit Lanes16(int period)
      : mask(repeats(period) ? period - 1 : -1), shift(repeats(period) ? __builtin_ctz(period) : 31) {}
  static bool repeats(int period) { return 2 * period <= kPhiloxLanes; }
  int blocks() const { return mask < 0 ? 1 : kPhiloxLanes >> shift; }
  int row_of(int lane) const { return lane & mask; }
  int block_of(int lane) const { return lane >> shift; }
};

// logit(u) for the uniform of each word: u < sigmoid(l) iff l > logit(u), and the right side can be had before l is
// known. `n` is a multiple of 16.
template <class T>
__attribute__((noinline)) void thresholds(const uint32_t* words, T* out, int n) {
  for (int i = 0; i < n; i += kLanes<T>) {
    alignas(kAlign) T u[kLanes<T>];
    for (int j = 0; j < kLanes<T>; ++j) u[j] = static_cast<T>(static_cast<int32_t>(words[i + j] >> 8)) * T(0x1p-24);
    const Vec<T> v = load<T>(u);
    store<T>(out + i, v > T(0) ? log_ratio<T>(v, T(1) - v) : splat<T>(-__builtin_inff()));
  }
}

// Thresholds of 16 counters, four words apart by 16, to those of each step of their blocks, by lane, `width` apart.
template <class T>
void repeat_limits(const T* found, const Lanes16& repeated, int lanes, int width, T* limits) {
  for (int step = 0; step < 4 * repeated.blocks(); ++step) {
    const T* of_step = found + (step & 3) * kPhiloxLanes + ((step >> 2) << repeated.shift);
    for (int lane = 0; lane < lanes; ++lane) limits[step * width + lane] = of_step[repeated.row_of(lane)];
  }
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
