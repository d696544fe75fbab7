// Masked matmuls: only groups of rows times the columns that they read are multiplied.
//
// One vector lane is one row of the batch. The batch is transposed into tiles of up to three vectors, columns in sorted
// order, so that what a group reads lies together; weights are read where they are, those on the step masked on the
// way.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/panel-inl.h"
#include "engine/scratch-inl.h"
#include "engine/team-inl.h"
#include "plan/mask_view.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Terms summed in registers before they are added to the sum in memory: a tile of so many columns fits the first cache,
// and a long sum rounds less by blocks.
constexpr int kColumnBlock = 128;
constexpr int kRowBlock = 288;     // rows of the batch in flight: bounds the scratch
constexpr int kReduceBlock = 512;  // rows of the batch summed at a time for the gradient of the weights
constexpr int kVectorsAlone = 4;   // of rows for each thread, from which on threads take rows rather than groups
constexpr int kThreadsAlone = 4;   // up to which each thread gathers the batch for itself

// How the rows of a block fall into tiles.
template <class T>
struct Tiling {
  int vectors;
  int num_tiles() const { return (vectors + kTileVectors - 1) / kTileVectors; }
  int first(int tile) const { return tile * kTileVectors; }
  int count(int tile) const { return vectors - first(tile) < kTileVectors ? vectors - first(tile) : kTileVectors; }
  // Where a tile starts in an array of `units` values for each row.
  int64_t offset(int tile, int64_t units) const { return int64_t(first(tile)) * kLanes<T> * units; }
};

// A square of row-major memory, transposed; zeros where it reaches past `rows` or `columns`.
template <class T>
MADE_FAST_INLINE void load_square(const T* from, int64_t stride, int64_t rows, int64_t columns,
                                  Vec<T> (&square)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  if (columns >= n) {
#pragma GCC unroll 16
    for (int r = 0; r < n; ++r) {
      square[r] = Vec<T>{};
      if (r < rows) std::memcpy(&square[r], from + r * stride, sizeof square[r]);
    }
  } else {
    for (int r = 0; r < n; ++r) {
      square[r] = Vec<T>{};
      if (r < rows) std::memcpy(&square[r], from + r * stride, static_cast<size_t>(columns) * sizeof(T));
    }
  }
  transpose<T>(square);
}

template <class T>
class MaskedMatmul {
 public:
  explicit MaskedMatmul(const MatmulTask<T>& task) : task_(task) {
    const int64_t rows = whole_vectors<T>(static_cast<int>(task.batch < kRowBlock ? task.batch : kRowBlock));
    Places places;
    const int64_t inputs = places.add(rows * task.view.num_columns * int64_t(sizeof(T)));
    const int64_t packed = places.add(task.num_threads * packed_size * int64_t(sizeof(T)));
    const int64_t sums = places.add(rows * task.view.num_rows * int64_t(sizeof(T)));
    char* scratch = static_cast<char*>(team_scratch.get(places.size(), false));
    ok_ = scratch != nullptr;
    inputs_ = reinterpret_cast<T*>(scratch + inputs);
    packed_ = reinterpret_cast<T*>(scratch + packed);
    sums_ = reinterpret_cast<T*>(scratch + sums);
  }

  bool ok() const { return ok_; }

  // Called by every thread of a team.
  void run(const Team::Member& member) {
    const MaskView& view = task_.view;
    if (view.num_groups == 0) return;
    T* packed = packed_ + member.number * packed_size;
    for (int64_t first = 0; first < task_.batch; first += kRowBlock) {
      const int64_t rows = task_.batch - first < kRowBlock ? task_.batch - first : kRowBlock;
      const Tiling<T> tiling{whole_vectors<T>(static_cast<int>(rows)) / kLanes<T>};
      gather(member, tiling, first, rows);
      member.meet();
      // A thread alone takes all tiles of a group at once, so that it reads the weights once.
      const int tiles = tiling.num_tiles(), parts = member.count == 1 ? 1 : tiles;
      for (int64_t item = member.take(); item < view.num_groups * parts; item = member.take()) {
        const int first_tile = static_cast<int>(item % parts);
        multiply_group(view.groups[view.longest_first[item / parts]], tiling, first_tile,
                       parts == 1 ? tiles : first_tile + 1, packed);
      }
      member.meet();
      scatter(member, tiling, first, rows);
    }
  }

 private:
  static constexpr int64_t packed_size = int64_t{kColumnBlock} * kGroupRows;

  // The rows of the batch, transposed into tiles, columns at their sorted places.
  void gather(const Team::Member& member, const Tiling<T>& tiling, int64_t first, int64_t rows) {
    constexpr int n = kLanes<T>;
    const int64_t columns = task_.view.num_columns, blocks = (columns + n - 1) / n;
    const int64_t items = tiling.num_tiles() * blocks;
    for (int64_t item = member.begin(items); item < member.end(items); ++item) {
      const int tile = static_cast<int>(item / blocks);
      const int64_t column = item % blocks * n;
      const int64_t stride = int64_t(tiling.count(tile)) * n;
      for (int v = 0; v < tiling.count(tile); ++v) {
        const int64_t row = int64_t(tiling.first(tile) + v) * n;
        Vec<T> square[n];
        load_square<T>(task_.x + (first + row) * columns + column, columns, rows - row, columns - column, square);
        T* to = inputs_ + tiling.offset(tile, columns) + v * n;
#pragma GCC unroll 16
        for (int c = 0; c < n; ++c)
          if (column + c < columns) store<T>(to + task_.view.column_places[column + c] * stride, square[c]);
      }
    }
  }

  // The sums of a block, transposed back into rows of the batch; the function is applied on the way.
  void scatter(const Team::Member& member, const Tiling<T>& tiling, int64_t first, int64_t rows) {
    constexpr int n = kLanes<T>;
    const int64_t units = task_.view.num_rows, blocks = (units + n - 1) / n;
    const int64_t items = tiling.num_tiles() * blocks;
    for (int64_t item = member.begin(items); item < member.end(items); ++item) {
      const int tile = static_cast<int>(item / blocks);
      const int64_t unit = item % blocks * n;
      const int64_t stride = int64_t(tiling.count(tile)) * n;
      const int64_t kept = units - unit < n ? units - unit : n;
      for (int v = 0; v < tiling.count(tile); ++v) {
        const int64_t row = int64_t(tiling.first(tile) + v) * n;
        const T* from = sums_ + tiling.offset(tile, units) + unit * stride + v * n;
        Vec<T> square[n];
#pragma GCC unroll 16
        for (int u = 0; u < n; ++u) square[u] = u < kept ? load<T>(from + u * stride) : Vec<T>{};
        if (task_.function == Function::relu) {
#pragma GCC unroll 16
          for (int u = 0; u < n; ++u) square[u] = max0<T>(square[u]);
        } else if (task_.function != Function::identity) {
          for (int u = 0; u < n; ++u) square[u] = call<T>(task_.function, square[u]);
        }
        transpose<T>(square);
        T* to = task_.out + (first + row) * units + unit;
        if (kept == n && rows - row >= n) {
#pragma GCC unroll 16
          for (int r = 0; r < n; ++r) std::memcpy(to + r * units, &square[r], sizeof square[r]);
        } else {
          for (int r = 0; r < n && row + r < rows; ++r)
            std::memcpy(to + r * units, &square[r], static_cast<size_t>(kept) * sizeof(T));
        }
      }
    }
  }

  // Weights are read where they are, but for those of the columns that not all rows of the group read: these are
  // packed, 16 to a column, zero where the mask says so.
  struct Packed {
    int32_t first, last;  // of the columns of a block
    T* weights;
  };

  // All are packed for several tiles where the lines of a transposed matrix are so long that what lies below one
  // another falls into a few places of the first cache.
  Packed packed_of(const MaskGroup& group, int32_t begin, int32_t end, int tiles, T* room) const {
    const bool all = tiles * 16 > MADE_FAST_VECTOR_BYTES && task_.row_stride == 1 &&
                     task_.column_stride * int64_t(sizeof(T)) % 1024 == 0;
    return {all ? begin : clamp(group.partial[0], begin, end), all ? end : clamp(group.partial[1], begin, end), room};
  }

  void pack(const MaskGroup& group, const Packed& to) const {
    const MaskView& view = task_.view;
    const int32_t* rows = view.rows + (&group - view.groups) * kGroupRows;
    const int32_t* positions = view.positions + group.positions;
    const unsigned every = (1u << group.num_rows) - 1;
    bool together = task_.row_stride == 1 && group.num_rows == kGroupRows;
    for (int u = 1; u < group.num_rows; ++u) together = together && rows[u] == rows[0] + u;
    T* packed = to.weights;
    for (int64_t j = to.first; j < to.last; ++j, packed += kGroupRows) {
      const T* from = task_.weight + view.columns[positions[j]] * task_.column_stride;
      const bool partial = j >= group.partial[0] && j < group.partial[1];
      const unsigned bits = partial ? view.bits[group.bits + j - group.partial[0]] : every;
      if (!partial && together) {
        std::memcpy(packed, from + rows[0], kGroupRows * sizeof(T));
        continue;
      }
      for (int u = 0; u < kGroupRows; ++u) packed[u] = bits >> u & 1 ? from[rows[u] * task_.row_stride] : T(0);
    }
  }

  void multiply_group(const MaskGroup& group, const Tiling<T>& tiling, int first_tile, int last_tile, T* room) {
    for (int32_t begin = 0; begin == 0 || begin < group.size; begin += kColumnBlock) {
      const int32_t end = group.size - begin < kColumnBlock ? group.size : begin + kColumnBlock;
      const Packed packed = packed_of(group, begin, end, last_tile - first_tile, room);
      pack(group, packed);
      for (int tile = first_tile; tile < last_tile; ++tile) {
        const T* inputs = inputs_ + tiling.offset(tile, task_.view.num_columns);
        T* sums = sums_ + tiling.offset(tile, task_.view.num_rows);
        switch (tiling.count(tile)) {
          case 1:
            multiply_tile<1>(group, begin, end, inputs, packed, sums);
            break;
          case 2:
            multiply_tile<2>(group, begin, end, inputs, packed, sums);
            break;
          default:
            multiply_tile<kTileVectors>(group, begin, end, inputs, packed, sums);
        }
      }
    }
  }

  // Columns [begin, end) of a group's list for one tile.
  template <int NV>
  void multiply_tile(const MaskGroup& group, int32_t begin, int32_t end, const T* inputs, const Packed& packed,
                     T* sums) {
    constexpr int units = kUnits<NV>, stride = NV * kLanes<T>;
    const int32_t* rows = task_.view.rows + (&group - task_.view.groups) * kGroupRows;
    for (int part = 0; part < group.num_rows; part += units) {
      const int32_t* range = part < kPanelRows ? group.first_panel : group.second_panel;
      const int32_t from = range[0] > begin ? range[0] : begin, to = range[1] < end ? range[1] : end;
      if (from >= to && begin > 0) continue;
      const int kept = group.num_rows - part < units ? group.num_rows - part : units;
      Vec<T> sum[units][NV] = {};
      if (begin == 0 && task_.bias != nullptr) {
        alignas(kAlign) T start[units] = {};
        for (int u = 0; u < kept; ++u) start[u] = task_.bias[rows[part + u]];
        fill<T, units, NV>(sum, start);
      }
      const int32_t low = clamp(packed.first, from, to), high = clamp(packed.last, from, to);
      const T* packed_part = packed.weights + (low - packed.first) * kGroupRows + part;
      add_in_place<NV>(sum, group, rows + part, kept, from, low, inputs);
      add_columns<NV>(sum, PackedWeights<T>{packed_part, kGroupRows}, group, low, high, inputs);
      add_in_place<NV>(sum, group, rows + part, kept, high, to, inputs);
#pragma GCC unroll 8
      for (int u = 0; u < units; ++u) {
        if (u >= kept) break;
        T* out = sums + rows[part + u] * int64_t{stride};
        if (begin > 0) add_sums<T, NV>(sum[u], out);
        store_sums<T, NV>(sum[u], out);
      }
    }
  }

  static int32_t clamp(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

  template <int NV, class Weight>
  MADE_FAST_INLINE void add_columns(Vec<T> (&sum)[kUnits<NV>][NV], const Weight& weight, const MaskGroup& group,
                                    int32_t from, int32_t to, const T* inputs) const {
    const int32_t* positions = task_.view.positions + group.positions;
    accumulate<T, kUnits<NV>, NV>(sum, weight, to - from,
                                  [&](int64_t c) { return inputs + positions[from + c] * int64_t{NV * kLanes<T>}; });
  }

  template <int NV>
  MADE_FAST_INLINE void add_in_place(Vec<T> (&sum)[kUnits<NV>][NV], const MaskGroup& group, const int32_t* rows,
                                     int kept, int32_t from, int32_t to, const T* inputs) const {
    if (from >= to) return;
    WeightsInPlace<T, kUnits<NV>> weights{
        {}, task_.view.positions + group.positions + from, task_.view.columns, task_.column_stride};
    for (int u = 0; u < kUnits<NV>; ++u) weights.row[u] = task_.weight + rows[u < kept ? u : 0] * task_.row_stride;
    add_columns<NV>(sum, weights, group, from, to, inputs);
  }

  const MatmulTask<T>& task_;
  bool ok_;
  T* inputs_;  // (tile, column place, rows of the tile)
  T* sums_;    // (tile, row of the weight, rows of the tile)
  T* packed_;  // (thread, column of a block, row of the group)
};

// Some rows of the batch by one thread alone.
template <class T>
bool multiply_rows(MatmulTask<T> task, int64_t first, int64_t last) {
  task.x += first * task.view.num_columns;
  task.out += first * task.view.num_rows;
  task.batch = last - first;
  task.num_threads = 1;
  MaskedMatmul<T> matmul(task);
  Team alone;
  if (matmul.ok()) matmul.run({alone, 0, 1});
  return matmul.ok();
}

template <class T>
Status masked_matmul(const MatmulTask<T>& task) {
  const int64_t vectors = (task.batch + kLanes<T> - 1) / kLanes<T>;
  if (vectors >= kVectorsAlone * task.num_threads) {
    // Each thread has rows of its own: what it writes and reads again, nobody else reads.
    int failed = 0;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1) reduction(| : failed)
    {
      Team team;
      const Team::Member member = team.member();
      const int64_t first = member.begin(vectors) * kLanes<T>, last = member.end(vectors) * kLanes<T>;
      failed |= !multiply_rows<T>(task, first, last < task.batch ? last : task.batch);
    }
    return failed ? Status::no_memory : Status::ok;
  }
  MaskedMatmul<T> matmul(task);
  if (!matmul.ok()) return Status::no_memory;
  Team team;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  matmul.run(team.member());
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
