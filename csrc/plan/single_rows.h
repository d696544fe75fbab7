// How many threads draw, and whether each of them draws row by row.
#pragma once

#include <cstdint>

#include "plan/plan.h"

namespace made_fast {

// Waking a thread costs microseconds, and milliseconds where another program has its core: not for less work than this,
// which takes a tenth of a millisecond. 8 rows of one tile take little longer than 4.
constexpr int64_t kMacsPerThread = 4'000'000;

// Static, since the engines are compiled for processors that others cannot run.
template <class T>
static int useful_threads(const Plan<T>& plan, int64_t num_rows, int threads) {
  const int64_t paying = num_rows * plan.macs / kMacsPerThread;
  return paying < 2 || threads < 2 ? 1 : paying < threads ? static_cast<int>(paying) : threads;
}

// Whether useful threads draw row by row, each up to `most` rows. bf16 knows tiles only, so that all rows round alike.
template <class T>
static bool draws_single_rows(const Plan<T>& plan, int64_t num_rows, int threads, int rows_at_once, int64_t most) {
  if (plan.pair_weights != nullptr) return false;
  return rows_at_once == 0 ? (num_rows + threads - 1) / threads <= most : rows_at_once == 1;
}

}  // namespace made_fast
