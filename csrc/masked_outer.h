// The gradient of masked weights: sums over the batch of grad * x, only where a group of rows meets a tile of columns
// that it reads; zero elsewhere. Included by engine.cpp only, inside the namespace of its instruction set.
//
// The micro-kernel is that of the matmul: the batch takes the place of the columns, one vector lane is one column.
#pragma once

template <class T>
class MaskedOuter {
 public:
  static constexpr int tile_columns = kTileVectors * kLanes<T>;

  explicit MaskedOuter(const OuterTask<T>& task)
      : task_(task), num_tiles_((task.view.num_columns + tile_columns - 1) / tile_columns) {
    const int64_t rows = task.batch < kReduceBlock ? task.batch : kReduceBlock;
    Places places;
    const int64_t tiles = places.add(rows * num_tiles_ * tile_columns * int64_t(sizeof(T)));
    const int64_t grads = places.add(rows * task.view.num_groups * kGroupRows * int64_t(sizeof(T)));
    const int64_t readers = places.add(task.num_threads * num_tiles_ * tile_columns * int64_t(sizeof(uint16_t)));
    char* scratch = static_cast<char*>(team_scratch.get(places.size(), false));
    ok_ = scratch != nullptr;
    tiles_ = reinterpret_cast<T*>(scratch + tiles);
    grads_ = reinterpret_cast<T*>(scratch + grads);
    readers_ = reinterpret_cast<uint16_t*>(scratch + readers);
  }

  bool ok() const { return ok_; }

  // Called by every thread of a team.
  void run() {
    const MaskView& view = task_.view;
    const int64_t tiles = num_tiles_;
    uint16_t* readers = readers_ + thread_number() * tiles * tile_columns;
    int64_t chunks = (kItemsPerThread * task_.num_threads + view.num_groups - 1) / view.num_groups;
    chunks = chunks < tiles ? chunks : tiles;
    for (int64_t first = 0; first == 0 || first < task_.batch; first += kReduceBlock) {
      const int64_t rows = task_.batch - first < kReduceBlock ? task_.batch - first : kReduceBlock;
      gather_columns(first, rows);
      gather_grads(first, rows);
#pragma omp for schedule(dynamic)
      for (int64_t item = 0; item < view.num_groups * chunks; ++item) {
        const int64_t group = view.longest_first[item / chunks];
        const int64_t chunk = item % chunks;
        sum_group(group, tiles * chunk / chunks, tiles * (chunk + 1) / chunks, rows, first > 0, readers);
      }
    }
  }

 private:
  // Columns at their sorted places, a tile of them side by side for each row of the batch.
  void gather_columns(int64_t first, int64_t rows) {
    const MaskView& view = task_.view;
    const int64_t tiles = num_tiles_;
#pragma omp for schedule(static) nowait
    for (int64_t item = 0; item < tiles * rows; ++item) {
      const int64_t row = item / tiles, place = item % tiles * tile_columns;
      const T* from = task_.x + (first + row) * view.num_columns;
      T* to = tiles_ + (item % tiles * rows + row) * tile_columns;
      const int64_t kept = view.num_columns - place < tile_columns ? view.num_columns - place : tile_columns;
      if (view.natural_columns) {
        std::memcpy(to, from + place, static_cast<size_t>(kept) * sizeof(T));
      } else {
        for (int64_t c = 0; c < kept; ++c) to[c] = from[view.columns[place + c]];
      }
      for (int64_t c = kept; c < tile_columns; ++c) to[c] = 0;
    }
  }

  void gather_grads(int64_t first, int64_t rows) {
    const MaskView& view = task_.view;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < view.num_groups * rows; ++item) {
      const int64_t row = item / view.num_groups, group = item % view.num_groups;
      const T* from = task_.grad + (first + row) * view.num_rows;
      T* to = grads_ + (group * rows + row) * kGroupRows;
      const int32_t* units = view.rows + group * kGroupRows;
      const int kept = view.groups[group].num_rows;
      if (view.natural_rows) {
        std::memcpy(to, from + units[0], static_cast<size_t>(kept) * sizeof(T));
      } else {
        for (int u = 0; u < kept; ++u) to[u] = from[units[u]];
      }
      for (int u = kept; u < kGroupRows; ++u) to[u] = 0;
    }
  }

  void sum_group(int64_t number, int64_t first_tile, int64_t last_tile, int64_t rows, bool add, uint16_t* readers) {
    const MaskView& view = task_.view;
    const MaskGroup& group = view.groups[number];
    const int32_t* units = view.rows + number * kGroupRows;
    const int64_t begin = first_tile * tile_columns;
    const int64_t end = last_tile * tile_columns < view.num_columns ? last_tile * tile_columns : view.num_columns;
    if (!add && !view.natural_columns) clear(units, group.num_rows, begin, end);
    list_readers(group, readers);
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const uint16_t* reading = readers + tile * tile_columns;
      unsigned any = 0, all = 0xffff;
      for (int c = 0; c < tile_columns; ++c) any |= reading[c], all &= reading[c];
      const T* inputs = tiles_ + tile * rows * tile_columns;
      constexpr int U = kUnits<kTileVectors>;
      for (int part = 0; part < group.num_rows; part += U) {
        constexpr unsigned panel = (1u << U) - 1;
        const int kept = group.num_rows - part < U ? group.num_rows - part : U;
        alignas(kAlign) T sums[U * tile_columns] = {};
        if ((any >> part & panel) != 0) {
          sum_tile(inputs, grads_ + number * rows * kGroupRows + part, rows, sums);
          if ((all >> part & panel) != panel) mask_tile(reading, part, sums);
        } else if (add || !view.natural_columns) {
          continue;
        }
        write_tile(sums, units + part, kept, tile * tile_columns, add);
      }
    }
  }

  // Zeros, where columns are scattered: all of the rows at once.
  void clear(const int32_t* units, int num_rows, int64_t begin, int64_t end) {
    const MaskView& view = task_.view;
    for (int u = 0; u < num_rows; ++u) {
      T* row = task_.out + units[u] * view.num_columns;
      if (end - begin == view.num_columns) {
        std::memset(row, 0, static_cast<size_t>(view.num_columns) * sizeof(T));
      } else {
        for (int64_t place = begin; place < end; ++place) row[view.columns[place]] = 0;
      }
    }
  }

  void list_readers(const MaskGroup& group, uint16_t* readers) {
    const MaskView& view = task_.view;
    std::memset(readers, 0, static_cast<size_t>(num_tiles_) * tile_columns * sizeof(uint16_t));
    const int32_t* positions = view.positions + group.positions;
    for (int32_t j = 0; j < group.size; ++j) {
      const bool partial = j >= group.partial[0] && j < group.partial[1];
      readers[positions[j]] = partial ? view.bits[group.bits + j - group.partial[0]] : uint16_t{0xffff};
    }
  }

  static void sum_tile(const T* inputs, const T* grads, int64_t rows, T* sums) {
    constexpr int U = kUnits<kTileVectors>, NV = kTileVectors;
    Vec<T> sum[U][NV];
    fill<T, U, NV>(sum, sums);
    accumulate<T, U, NV>(sum, grads, kGroupRows, rows, [&](int64_t b) { return inputs + b * tile_columns; });
    store_sums<T, U, NV>(sum, sums, tile_columns, U);
  }

  static void mask_tile(const uint16_t* readers, int part, T* sums) {
    for (int u = 0; u < kUnits<kTileVectors>; ++u)
      for (int c = 0; c < tile_columns; ++c)
        if (!(readers[c] >> (part + u) & 1)) sums[u * tile_columns + c] = 0;
  }

  void write_tile(const T* sums, const int32_t* units, int kept, int64_t place, bool add) {
    const MaskView& view = task_.view;
    const int64_t width = view.num_columns - place < tile_columns ? view.num_columns - place : tile_columns;
    for (int u = 0; u < kept; ++u) {
      T* row = task_.out + units[u] * view.num_columns;
      const T* from = sums + u * tile_columns;
      if (!view.natural_columns) {
        const int32_t* columns = view.columns + place;
        for (int64_t c = 0; c < width; ++c) row[columns[c]] = add ? row[columns[c]] + from[c] : from[c];
      } else if (add) {
        for (int64_t c = 0; c < width; ++c) row[place + c] += from[c];
      } else {
        std::memcpy(row + place, from, static_cast<size_t>(width) * sizeof(T));
      }
    }
  }

  const OuterTask<T>& task_;
  const int64_t num_tiles_;
  bool ok_;
  T* tiles_;           // (tile, row of the batch, column of the tile)
  T* grads_;           // (group, row of the batch, row of the group)
  uint16_t* readers_;  // (thread, column place): which rows of the present group read it
};

template <class T>
Status masked_outer(const OuterTask<T>& task) {
  MaskedOuter<T> outer(task);
  if (!outer.ok()) return Status::no_memory;
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  outer.run();
  return Status::ok;
}
