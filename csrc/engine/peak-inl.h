// The ceiling: multiply-adds of full vectors that never leave the registers.
#pragma once

#include <cstdint>

#include "engine/processor-inl.h"
#include "engine/simd-inl.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
double fma_rate(int num_threads, int64_t repeats) {
  constexpr int chains = 12;  // enough to hide the latency of two units
  double checksum = 0;
  const double start = seconds();
#pragma omp parallel num_threads(num_threads) reduction(+ : checksum)
  {
    Vec<T> sum[chains];
    for (int i = 0; i < chains; ++i) sum[i] = splat<T>(T(i));
    Vec<T> x = splat<T>(T(0.999)), y = splat<T>(T(0.001));
    for (int64_t r = 0; r < repeats; ++r) {
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sum[i] = sum[i] * x + y;
    }
    for (int i = 0; i < chains; ++i) checksum += static_cast<double>(sum[i][0]);
  }
  const double elapsed = seconds() - start;
  const double done = static_cast<double>(repeats) * chains * kLanes<T> * num_threads;
  return checksum > 1e300 ? 0 : done / elapsed;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
