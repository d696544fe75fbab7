// A draw: how many rows a thread takes at once, which of them share a prefix, and who draws what.
#pragma once

#include <cstdint>

#include "engine/few-inl.h"
#include "engine/prefix-inl.h"
#include "engine/processor-inl.h"
#include "engine/rows-inl.h"
#include "engine/run_tile-inl.h"
#include "engine/scratch-inl.h"
#include "engine/tile_positions-inl.h"
#include "plan/plan.h"
#include "plan/request.h"
#include "plan/single_rows.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// The path for one row reads every weight once per row, a tile once for all its rows: up to so many rows of a thread
// take less time one by one. A tile of few rows is quicker where a panel of units fills a vector.
template <class T>
constexpr int64_t kSingleRows = FewRows<T>::fits ? 2 : 3;

// Rows that one thread draws together: 1 for the path for few rows, else whole vectors.
template <class T>
int rows_together(const Plan<T>& plan, int64_t num_rows, int threads, int rows_at_once) {
  if (draws_single_rows(plan, num_rows, threads, rows_at_once, kSingleRows<T>)) return 1;
  const int64_t share = rows_at_once == 0 ? (num_rows + threads - 1) / threads : rows_at_once;
  return whole_vectors<T>(share < 1 ? 1 : share < kTileRows<T> ? static_cast<int>(share) : kTileRows<T>);
}

template <class T>
int64_t scratch_bytes(const Plan<T>& plan, int64_t num_rows, int threads, int rows_at_once) {
  const int together = rows_together<T>(plan, num_rows, useful_threads<T>(plan, num_rows, threads), rows_at_once);
  return together == 1 ? RowPositions<T>(plan).bytes : TilePositions<T>::bytes_up_to(plan, together);
}

// Whether rows of one condition are drawn together, from what they have in common. In half a tile and less there is
// more to lose than to gain.
template <class T>
bool shares_prefix(const Plan<T>& plan, const Request<T>& request, int together) {
  const int64_t least = together == 1 ? 2 : kTileRows<T> / 2;
  return request.conditions.observed != nullptr && plan.pair_weights == nullptr && request.rows_per_context >= least;
}

// How the rows of a request are cut into tiles; with a prefix no tile has rows of two conditions.
struct RowTiles {
  int64_t num_rows, per_group, first_group_row, per_tile, tiles_per_group, num_tiles;

  template <class T>
  RowTiles(const Request<T>& request, int together, bool by_condition)
      : num_rows(request.num_rows), per_group(num_rows), first_group_row(0), per_tile(together) {
    if (by_condition) {
      per_group = request.rows_per_context;
      first_group_row = -(request.row_offset % per_group);
    }
    tiles_per_group = (per_group + per_tile - 1) / per_tile;
    const int64_t groups = per_group == 0 ? 0 : (num_rows - first_group_row + per_group - 1) / per_group;
    num_tiles = groups * tiles_per_group;
  }

  // The rows [first, last) of a tile; none at the ends of a request that begins or ends within a group.
  void rows_of(int64_t tile, int64_t& first, int64_t& last) const {
    const int64_t start = first_group_row + tile / tiles_per_group * per_group;
    const int64_t begin = start + tile % tiles_per_group * per_tile;
    const int64_t end = begin + per_tile < start + per_group ? begin + per_tile : start + per_group;
    first = begin < 0 ? 0 : begin;
    last = end < num_rows ? end : num_rows;
  }
};

template <class T, bool kPairs>
Status draw(const Plan<T>& plan, const Request<T>& request) {
  const int threads = useful_threads<T>(plan, request.num_rows, request.num_threads);
  const int step = rows_together<T>(plan, request.num_rows, threads, request.rows_at_once);
  const bool shares = shares_prefix<T>(plan, request, step);
  const RowTiles tiles(request, step, shares);
  const int64_t num_tiles = tiles.num_tiles, of_prefix = shares ? PrefixPositions<T>(plan).bytes : 0;
  const int64_t bytes = of_prefix + scratch_bytes<T>(plan, request.num_rows, threads, request.rows_at_once);
  int failed = 0, nan_seen = 0;
#pragma omp parallel num_threads(threads) if (num_tiles > 1 && threads > 1) reduction(| : failed, nan_seen)
  {
    const FlushDenormals flush;
    char* scratch = static_cast<char*>(thread_scratch.get(bytes, true));
    failed |= scratch == nullptr;
    Prefix<T> prefix{};
    prefix.source = -1;
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      if (scratch == nullptr) continue;
      int64_t first, last;
      tiles.rows_of(tile, first, last);
      if (first >= last) continue;
      if (shares && prefix.source != request.source(first)) {
        prefix = make_prefix<T>(plan, request, first, scratch);
        nan_seen |= prefix.nan_seen;
      }
      const Prefix<T>* shared = shares ? &prefix : nullptr;
      char* own = scratch + of_prefix;
      nan_seen |= step == 1 ? draw_row<T>(plan, request, first, own, shared)
                            : draw_tile<T, kPairs>(plan, request, first, static_cast<int>(last - first), own, shared);
    }
  }
  return failed ? Status::no_memory : nan_seen ? Status::not_a_number : Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
