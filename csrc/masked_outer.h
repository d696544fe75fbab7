// The gradient of masked weights: sums over the batch of grad * x, only where a group of rows meets a tile of columns
// that it reads; zero elsewhere. Included by engine.cpp only, inside the namespace of its instruction set.
//
// The micro-kernel is that of the matmul: the batch takes the place of the columns, one vector lane is one column.
#pragma once

template <class T>
class MaskedOuter {
 public:
  explicit MaskedOuter(const OuterTask<T>& task)
      : task_(task), tiling_{static_cast<int>((task.view.num_columns + kLanes<T> - 1) / kLanes<T>)} {
    const int64_t rows = task.batch < kReduceBlock ? task.batch : kReduceBlock;
    Places places;
    const int64_t tiles = places.add(rows * tiling_.vectors * kLanes<T> * int64_t(sizeof(T)));
    const int64_t grads = places.add(rows * task.view.num_groups * kGroupRows * int64_t(sizeof(T)));
    const int64_t readers = places.add(task.num_threads * readers_size() * int64_t(sizeof(uint16_t)));
    char* scratch = static_cast<char*>(team_scratch.get(places.size(), false));
    ok_ = scratch != nullptr;
    tiles_ = reinterpret_cast<T*>(scratch + tiles);
    grads_ = reinterpret_cast<T*>(scratch + grads);
    readers_ = reinterpret_cast<uint16_t*>(scratch + readers);
  }

  bool ok() const { return ok_; }

  // Called by every thread of a team.
  void run(const Team::Member& member) {
    const MaskView& view = task_.view;
    if (view.num_groups == 0) return;
    const int tiles = tiling_.num_tiles();
    uint16_t* readers = readers_ + member.number * readers_size();
    int64_t chunks = (kItemsPerThread * member.count + view.num_groups - 1) / view.num_groups;
    chunks = chunks < tiles ? chunks : tiles;
    chunks = chunks < 1 ? 1 : chunks;
    for (int64_t first = 0; first == 0 || first < task_.batch; first += kReduceBlock) {
      const int64_t rows = task_.batch - first < kReduceBlock ? task_.batch - first : kReduceBlock;
      for (int64_t row = member.begin(rows); row < member.end(rows); ++row) {
        gather_columns(first, row, rows);
        gather_grads(first, row, rows);
      }
      member.meet();
      for (int64_t item = member.take(); item < view.num_groups * chunks; item = member.take()) {
        const int64_t group = view.longest_first[item / chunks];
        const int64_t chunk = item % chunks;
        sum_group(group, static_cast<int>(tiles * chunk / chunks), static_cast<int>(tiles * (chunk + 1) / chunks), rows,
                  first > 0, readers);
      }
      member.meet();
    }
  }

 private:
  static constexpr int U = kUnits<kTileVectors>;

  int64_t places() const { return int64_t(tiling_.vectors) * kLanes<T>; }
  int64_t readers_size() const { return places() + 2 * tiling_.vectors; }
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
        for (int64_t c = 0; c < kept; ++c) {
          to[c] = from[view.columns[begin + c]];
          keep_scalar();
        }
      }
      for (int64_t c = kept; c < width; ++c) to[c] = 0;
    }
  }

  void gather_grads(int64_t first, int64_t row, int64_t rows) {
    const MaskView& view = task_.view;
    const T* from = task_.grad + (first + row) * view.num_rows;
    for (int64_t group = 0; group < view.num_groups; ++group) {
      T* to = grads_ + (group * rows + row) * kGroupRows;
      const int32_t* units = view.rows + group * kGroupRows;
      const int kept = view.groups[group].num_rows;
      if (view.natural_rows && kept == kGroupRows) {
        std::memcpy(to, from + units[0], kGroupRows * sizeof(T));
      } else {
        for (int u = 0; u < kept; ++u) {
          to[u] = from[units[u]];
          keep_scalar();
        }
        for (int u = kept; u < kGroupRows; ++u) to[u] = 0;
      }
    }
  }

  void sum_group(int64_t number, int first_tile, int last_tile, int64_t rows, bool add, uint16_t* readers) {
    const MaskView& view = task_.view;
    const MaskGroup& group = view.groups[number];
    if (!add && !view.natural_columns) clear(group, first_tile, last_tile);
    list_readers(group, readers);
    for (int tile = first_tile; tile < last_tile; ++tile)
      for (int part = 0; part < group.num_rows; part += U) sum_panel(number, part, tile, rows, add, readers);
  }

  // Zeros, where columns are scattered: all of the rows at once.
  void clear(const MaskGroup& group, int first_tile, int last_tile) {
    const MaskView& view = task_.view;
    const int32_t* units = view.rows + (&group - view.groups) * kGroupRows;
    const bool all = first_tile == 0 && last_tile == tiling_.num_tiles();
    for (int u = 0; u < group.num_rows; ++u) {
      T* row = task_.out + units[u] * view.num_columns;
      if (all) {
        std::memset(row, 0, static_cast<size_t>(view.num_columns) * sizeof(T));
      } else {
        const int64_t end = last_tile == tiling_.num_tiles() ? view.num_columns : begin_of(last_tile);
        for (int64_t place = begin_of(first_tile); place < end; ++place) row[view.columns[place]] = 0;
      }
    }
  }

  void list_readers(const MaskGroup& group, uint16_t* readers) {
    const MaskView& view = task_.view;
    std::memset(readers, 0, static_cast<size_t>(places()) * sizeof(uint16_t));
    const int32_t* positions = view.positions + group.positions;
    for (int32_t j = 0; j < group.size; ++j) {
      const bool partial = j >= group.partial[0] && j < group.partial[1];
      readers[positions[j]] = partial ? view.bits[group.bits + j - group.partial[0]] : uint16_t{0xffff};
    }
    for (int v = 0; v < tiling_.vectors; ++v) {
      unsigned any = 0, all = 0xffff;
      for (int c = v * kLanes<T>; c < (v + 1) * kLanes<T>; ++c) {
        any |= readers[c];
        all &= readers[c];
      }
      readers[places() + v] = static_cast<uint16_t>(any);
      readers[places() + tiling_.vectors + v] = static_cast<uint16_t>(all);
    }
  }

  // Some rows of a group times a tile: of its vectors, those from the first that any row reads to the last.
  void sum_panel(int64_t number, int part, int tile, int64_t rows, bool add, const uint16_t* readers) {
    constexpr int n = kLanes<T>;
    constexpr unsigned panel = (1u << U) - 1;
    const int width = width_of(tile);
    const uint16_t* any = readers + places() + tiling_.first(tile);  // in each vector, as list_readers left them
    const uint16_t* all = any + tiling_.vectors;
    int first = 0, last = tiling_.count(tile);
    while (first < last && (any[first] >> part & panel) == 0) ++first;
    while (last > first && (any[last - 1] >> part & panel) == 0) --last;
    if (first == last) {
      if (!add && task_.view.natural_columns) write_tile(number, part, nullptr, begin_of(tile), width, add);
      return;
    }
    alignas(kAlign) T sums[U * kTileVectors * n];
    if (last - first < tiling_.count(tile)) std::memset(sums, 0, sizeof sums);
    const T* inputs = tiles_ + tiling_.offset(tile, rows) + first * n;
    const T* grads = grads_ + number * rows * kGroupRows + part;
    if (last - first == 1) sum_vectors<1>(grads, inputs, width, rows, sums + first * n);
    if (last - first == 2) sum_vectors<2>(grads, inputs, width, rows, sums + first * n);
    if (last - first == 3) sum_vectors<kTileVectors>(grads, inputs, width, rows, sums + first * n);
    const uint16_t* reading = readers + begin_of(tile);
    for (int v = first; v < last; ++v) {
      if ((all[v] >> part & panel) == panel) continue;
      for (int u = 0; u < U; ++u)
        for (int c = v * n; c < v * n + n; ++c)
          sums[u * width + c] = reading[c] >> (part + u) & 1 ? sums[u * width + c] : 0;
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
      if (sums == nullptr) {
        std::memset(row + begin, 0, static_cast<size_t>(count) * sizeof(T));
      } else if (!view.natural_columns) {
        const int32_t* columns = view.columns + begin;
        for (int64_t c = 0; c < count; ++c) {
          row[columns[c]] = add ? row[columns[c]] + from[c] : from[c];
          keep_scalar();
        }
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
  T* tiles_;           // (tile, row of the batch, column of the tile)
  T* grads_;           // (group, row of the batch, row of the group)
  uint16_t* readers_;  // (thread, column place): which rows of the present group read it
};

template <class T>
Status masked_outer(const OuterTask<T>& task) {
  MaskedOuter<T> outer(task);
  if (!outer.ok()) return Status::no_memory;
  Team team;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  outer.run(team.member());
  return Status::ok;
}
