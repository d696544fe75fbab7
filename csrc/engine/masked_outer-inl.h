// The gradient of masked weights: sums over the batch of grad * x, only where a group of rows meets a tile of columns
// that it reads; zero elsewhere.
//
// The micro-kernel is that of the matmul: the batch takes the place of the columns, one vector lane is one column.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/masked-inl.h"
#include "engine/panel-inl.h"
#include "engine/scratch-inl.h"
#include "engine/team-inl.h"
#include "plan/mask_view.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
class MaskedOuter {
 public:
  explicit MaskedOuter(const OuterTask<T>& task)
      : task_(task), tiling_{static_cast<int>((task.view.num_columns + kLanes<T> - 1) / kLanes<T>)} {
    const int64_t rows = task.batch < kReduceBlock ? task.batch : kReduceBlock;
    Places places;
    const int64_t tiles = places.add(rows * tiling_.vectors * kLanes<T> * int64_t(sizeof(T)));
    const int64_t grads = places.add(rows * task.view.num_groups * kGroupRows * int64_t(sizeof(T)));
    char* scratch = static_cast<char*>(team_scratch.get(places.size(), false));
    ok_ = scratch != nullptr;
    tiles_ = reinterpret_cast<T*>(scratch + tiles);
    grads_ = reinterpret_cast<T*>(scratch + grads);
  }

  bool ok() const { return ok_; }

  // Called by every thread of a team. With several shares, this team sums the groups of one of them.
  void run(const Team::Member& member, int share, int shares) {
    const MaskView& view = task_.view;
    for (int64_t first = 0; first == 0 || first < task_.batch; first += kReduceBlock) {
      const int64_t rows = task_.batch - first < kReduceBlock ? task_.batch - first : kReduceBlock;
      for (int64_t row = member.begin(rows); row < member.end(rows); ++row) {
        gather_columns(first, row, rows);
        for (int64_t i = 0; i < view.num_groups; ++i)
          if (owner(i, shares) == share) gather_grads(first, row, rows, view.longest_first[i]);
      }
      member.meet();
      const int tiles = tiling_.num_tiles();
      for (int64_t item = member.take(); item < view.num_groups * tiles; item = member.take()) {
        const int64_t rank = item / tiles;
        if (owner(rank, shares) == share)
          sum_group(view.longest_first[rank], static_cast<int>(item % tiles), rows, first > 0);
      }
      member.meet();
    }
  }

 private:
  static constexpr int U = kUnits<kTileVectors>;

  // Which share has the group of this rank by length: forth and back, so that shares are even.
  static int owner(int64_t rank, int shares) {
    const int turn = static_cast<int>(rank % (2 * shares));
    return turn < shares ? turn : 2 * shares - 1 - turn;
  }

  int64_t begin_of(int tile) const { return int64_t(tiling_.first(tile)) * kLanes<T>; }
  int width_of(int tile) const { return tiling_.count(tile) * kLanes<T>; }

  // One row of the batch: columns at their sorted places, a tile of them side by side.
  void gather_columns(int64_t first, int64_t row, int64_t rows) {
    const MaskView& view = task_.view;
    const T* from = task_.x + (first + row) * view.num_columns;
    for (int tile = 0; tile < tiling_.num_tiles(); ++tile) {
      const int64_t begin = begin_of(tile), width = width_of(tile);
      const int64_t kept = view.num_columns - begin < width ? view.num_columns - begin : width;
      T* to = tiles_ + tiling_.offset(tile, rows) + row * width;
      if (view.natural_columns) {
        std::memcpy(to, from + begin, static_cast<size_t>(kept) * sizeof(T));
      } else {
        gather<T>(to, from, view.columns + begin, kept);
      }
      for (int64_t c = kept; c < width; ++c) to[c] = 0;
    }
  }

  void gather_grads(int64_t first, int64_t row, int64_t rows, int64_t group) {
    const MaskView& view = task_.view;
    const T* from = task_.grad + (first + row) * view.num_rows;
    T* to = grads_ + (group * rows + row) * kGroupRows;
    const int32_t* units = view.rows + group * kGroupRows;
    const int kept = view.groups[group].num_rows;
    if (view.natural_rows && kept == kGroupRows) {
      std::memcpy(to, from + units[0], kGroupRows * sizeof(T));
      return;
    }
    gather<T>(to, from, units, kept);
    for (int u = kept; u < kGroupRows; ++u) to[u] = 0;
  }

  // Which rows of a group read the columns of a tile, one by one and for each vector: by any of it, by all of it.
  struct alignas(kAlign) Readers {
    uint16_t of[kTileVectors * kLanes<T>], any[kTileVectors], all[kTileVectors];
  };

  void sum_group(int64_t number, int tile, int64_t rows, bool add) {
    Readers readers;
    list_readers(task_.view.groups[number], tile, readers);
    for (int part = 0; part < task_.view.groups[number].num_rows; part += U)
      sum_panel(number, part, tile, rows, add, readers);
  }

  void list_readers(const MaskGroup& group, int tile, Readers& readers) const {
    const MaskView& view = task_.view;
    const int32_t* positions = view.positions + group.positions;
    const int64_t begin = begin_of(tile), end = begin + width_of(tile);
    std::memset(readers.of, 0, sizeof readers.of);
    int64_t from = 0, to = group.size;
    if (view.contiguous && to > 0) {  // else the whole list has to be searched
      from = begin > positions[0] ? begin - positions[0] : 0;
      to = end - positions[0] < to ? end - positions[0] : to;
    }
    for (int64_t j = from; j < to; ++j) {
      if (positions[j] < begin || positions[j] >= end) continue;
      const bool partial = j >= group.partial[0] && j < group.partial[1];
      readers.of[positions[j] - begin] = partial ? view.bits[group.bits + j - group.partial[0]] : uint16_t{0xffff};
    }
    for (int v = 0; v < tiling_.count(tile); ++v) {
      unsigned any = 0, all = 0xffff;
      for (int c = v * kLanes<T>; c < (v + 1) * kLanes<T>; ++c) {
        any |= readers.of[c];
        all &= readers.of[c];
      }
      readers.any[v] = static_cast<uint16_t>(any);
      readers.all[v] = static_cast<uint16_t>(all);
    }
  }

  // Some rows of a group times a tile: of its vectors, those from the first that any row reads to the last.
  void sum_panel(int64_t number, int part, int tile, int64_t rows, bool add, const Readers& readers) {
    constexpr int n = kLanes<T>;
    constexpr unsigned panel = (1u << U) - 1;
    const int width = width_of(tile);
    int first = 0, last = tiling_.count(tile);
    while (first < last && (readers.any[first] >> part & panel) == 0) ++first;
    while (last > first && (readers.any[last - 1] >> part & panel) == 0) --last;
    if (first == last) {
      if (!add) write_tile(number, part, nullptr, begin_of(tile), width, add);
      return;
    }
    alignas(kAlign) T sums[U * kTileVectors * n];
    if (last - first < tiling_.count(tile)) std::memset(sums, 0, sizeof sums);
    const T* inputs = tiles_ + tiling_.offset(tile, rows) + first * n;
    const T* grads = grads_ + number * rows * kGroupRows + part;
    if (last - first == 1) sum_vectors<1>(grads, inputs, width, rows, sums + first * n);
    if (last - first == 2) sum_vectors<2>(grads, inputs, width, rows, sums + first * n);
    if (last - first == 3) sum_vectors<kTileVectors>(grads, inputs, width, rows, sums + first * n);
    for (int v = first; v < last; ++v) {
      if ((readers.all[v] >> part & panel) == panel) continue;
      for (int u = 0; u < U; ++u)
        for (int c = v * n; c < v * n + n; ++c)
          if (!(readers.of[c] >> (part + u) & 1)) sums[u * width + c] = 0;
    }
    write_tile(number, part, sums, begin_of(tile), width, add);
  }

  template <int NV>
  static void sum_vectors(const T* grads, const T* inputs, int width, int64_t rows, T* sums) {
    for (int64_t begin = 0; begin == 0 || begin < rows; begin += kColumnBlock) {
      const int64_t count = rows - begin < kColumnBlock ? rows - begin : kColumnBlock;
      const T* from = inputs + begin * width;
      Vec<T> sum[U][NV] = {};
      accumulate<T, U, NV>(sum, PackedWeights<T>{grads + begin * kGroupRows, kGroupRows}, count,
                           [&](int64_t b) { return from + b * width; });
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) {
        if (begin > 0) add_sums<T, NV>(sum[u], sums + u * width);
        store_sums<T, NV>(sum[u], sums + u * width);
      }
    }
  }

  void write_tile(int64_t number, int part, const T* sums, int64_t begin, int width, bool add) {
    const MaskView& view = task_.view;
    const int32_t* units = view.rows + number * kGroupRows + part;
    const int left = view.groups[number].num_rows - part, kept = left < U ? left : U;
    const int64_t count = view.num_columns - begin < width ? view.num_columns - begin : width;
    for (int u = 0; u < kept; ++u) {
      T* row = task_.out + units[u] * view.num_columns;
      const T* from = sums == nullptr ? nullptr : sums + u * width;
      if (!view.natural_columns && sums == nullptr) {
        for (int64_t c = 0; c < count; ++c) row[view.columns[begin + c]] = 0;
      } else if (!view.natural_columns) {
        add ? scatter<T, true>(row, from, view.columns + begin, count)
            : scatter<T, false>(row, from, view.columns + begin, count);
      } else if (sums == nullptr) {
        std::memset(row + begin, 0, static_cast<size_t>(count) * sizeof(T));
      } else if (add) {
        for (int64_t c = 0; c < count; ++c) row[begin + c] += from[c];
      } else {
        std::memcpy(row + begin, from, static_cast<size_t>(count) * sizeof(T));
      }
    }
  }

  const OuterTask<T>& task_;
  const Tiling<T> tiling_;  // of the columns
  bool ok_;
  T* tiles_;  // (tile, row of the batch, column of the tile)
  T* grads_;  // (group, row of the batch, row of the group)
};

template <class T>
Status masked_outer(const OuterTask<T>& task) {
  if (task.num_threads <= kThreadsAlone) {
    // Each thread has groups of its own and a copy of the batch: what it writes and reads again, nobody else reads.
    int failed = 0;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1) reduction(| : failed)
    {
      Team team, alone;
      const Team::Member member = team.member();
      MaskedOuter<T> outer(task);
      if (outer.ok()) outer.run({alone, 0, 1}, member.number, member.count);
      failed |= !outer.ok();
    }
    return failed ? Status::no_memory : Status::ok;
  }
  MaskedOuter<T> outer(task);
  if (!outer.ok()) return Status::no_memory;
  Team team;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  outer.run(team.member(), 0, 1);
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
