// bf16 weights: values are rounded to bf16 too and multiplied two by two, sums are fp32.
//
// Slots 2 i and 2 i + 1 share one row of the pair table: the even one in the low half of each 32-bit lane.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/simd-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

#if defined(__AVX512BF16__)

// out[0 .. num_rows) = bias + sum over pairs of columns
template <int NV>
void multiply_pairs(const Plan<float>& plan, const Panel& panel, const float* bias, const uint32_t* pairs, float* out) {
  const int32_t* columns = plan.pair_columns + panel.columns;
  const uint32_t* weights = plan.pair_weights + panel.weights;
  __m512 sum[kPanelRows][NV];
#pragma GCC unroll 8
  for (int u = 0; u < kPanelRows; ++u)
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) sum[u][v] = _mm512_set1_ps(bias[u]);
  for (int c = 0; c < panel.num_columns; ++c, weights += kPanelRows) {
    const uint32_t* input = pairs + static_cast<int64_t>(columns[c]) * NV * kLanes<float>;
    __m512i x[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) x[v] = _mm512_load_si512(input + v * kLanes<float>);
#pragma GCC unroll 8
    for (int u = 0; u < kPanelRows; ++u) {
      const __m512i w = _mm512_set1_epi32(static_cast<int>(weights[u]));
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v)
        sum[u][v] = _mm512_dpbf16_ps(sum[u][v], bits_as<__m512bh>(x[v]), bits_as<__m512bh>(w));
    }
  }
#pragma GCC unroll 8
  for (int u = 0; u < kPanelRows; ++u)
    if (u < panel.num_rows)
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) _mm512_store_ps(out + (u * NV + v) * kLanes<float>, sum[u][v]);
}

// Rounds one vector of values into its half of a row of the pair table.
inline void put_half(const float* values, uint32_t* row, bool odd) {
  typedef uint16_t Narrow __attribute__((vector_size(MADE_FAST_VECTOR_BYTES / 2)));
  typedef uint32_t Pairs __attribute__((vector_size(MADE_FAST_VECTOR_BYTES)));
  const Pairs half = __builtin_convertvector(bits_as<Narrow>(_mm512_cvtneps_pbh(_mm512_load_ps(values))), Pairs);
  Pairs pairs;
  std::memcpy(&pairs, row, sizeof pairs);
  pairs = odd ? (pairs & 0xFFFFu) | (half << 16) : (pairs & 0xFFFF0000u) | half;
  std::memcpy(row, &pairs, sizeof pairs);
}

#else

template <int NV>
void multiply_pairs(const Plan<float>&, const Panel&, const float*, const uint32_t*, float*);
template <class T>
void put_half(const T*, uint32_t*, bool);

#endif

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
