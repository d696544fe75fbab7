// The sampling engine. Compiled once per instruction set, each time into its own namespace; no STL templates in here,
// so that no function built for a newer processor can be merged with one built for an older.
#include <cstdlib>
#include <cstring>

#include "plan.h"
#if defined(__SSE__)
#include <immintrin.h>
#endif

#ifndef MADE_FAST_ISA
#error "MADE_FAST_ISA names the namespace of this build"
#endif
#define MADE_FAST_STRING_(x) #x
#define MADE_FAST_STRING(x) MADE_FAST_STRING_(x)

namespace made_fast {
namespace MADE_FAST_ISA {

#include "simd.h"
#include "noise.h"
#include "rows.h"
#include "tile.h"

// Flushes denormal numbers to zero while it lives: they cost a hundred cycles each and mean nothing here.
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

// The path for few rows reads every weight once per row, a tile once for all its rows: about this many rows are even.
constexpr int kFewRowsPerThread = 8;

template <class T>
Status draw(const Plan<T>& plan, const Request<T>& request) {
  const int threads = request.num_threads > 0 ? request.num_threads : 1;
  int rows_at_once = request.rows_at_once;
  if (rows_at_once == 0) {
    const int64_t share = (request.num_rows + threads - 1) / threads;
    rows_at_once = share <= kFewRowsPerThread ? 1 : share < kTileRows<T> ? static_cast<int>(share) : kTileRows<T>;
  }
  if (rows_at_once > kTileRows<T>) rows_at_once = kTileRows<T>;
  const int step = rows_at_once == 1 ? 1 : whole_vectors<T>(rows_at_once);
  const int64_t num_tiles = (request.num_rows + step - 1) / step;
  const int64_t needed = rows_at_once == 1 ? few_rows_scratch<T>(plan) : tile_scratch<T>(plan, step);
  const int64_t scratch_bytes = (needed + kAlign - 1) / kAlign * kAlign;
  int failed = 0, nan_seen = 0;
#pragma omp parallel num_threads(threads) if (num_tiles > 1 && threads > 1) reduction(| : failed, nan_seen)
  {
    const FlushDenormals flush;
    T* scratch = static_cast<T*>(std::aligned_alloc(kAlign, static_cast<size_t>(scratch_bytes)));
    failed |= scratch == nullptr;
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      if (scratch == nullptr) continue;
      const int64_t first = tile * step;
      const int64_t rows = request.num_rows - first < step ? request.num_rows - first : step;
      nan_seen |= rows_at_once == 1 ? draw_row<T>(plan, request, first, scratch)
                                    : draw_tile<T>(plan, request, first, static_cast<int>(rows), scratch);
    }
    std::free(scratch);
  }
  return failed ? Status::no_memory : nan_seen ? Status::not_a_number : Status::ok;
}

extern const Engine engine;
const Engine engine = {MADE_FAST_STRING(MADE_FAST_ISA), kTileRows<float>, kTileRows<double>, &draw<float>,
                       &draw<double>};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
