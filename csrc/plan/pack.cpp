#include "plan/pack.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "plan/check.h"
#include "plan/finite.h"
#include "plan/transpose.h"

namespace made_fast {
namespace {

constexpr int64_t half = kPanelRows / 2;
int64_t lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

}  // namespace

template <class T>
PackedPlan<T>::PackedPlan(PlanSource<T> source, const WeightSource<T>& weights)
    : PackedPlan(std::make_shared<SharedLayout<T>>(std::move(source))) {
  fill<false>(weights, 1);
}

template <class T>
PackedPlan<T>::PackedPlan(std::shared_ptr<SharedLayout<T>> shared) : shared_(std::move(shared)) {
  {
    const std::lock_guard<std::mutex> held(shared_->lock);
    weights_ = std::move(shared_->spare);
  }
  if (weights_) return;
  const Layout<T>& own = layout();
  weights_ = std::make_unique<Weights<T>>();
  weights_->bias.allocate(static_cast<size_t>(own.plan.num_slots) + kAlign + kPanelRows);
  weights_->panels.allocate(static_cast<size_t>(own.panel_size));
  weights_->lookups.allocate(static_cast<size_t>(own.lookup_size));
  weights_->tails.allocate(own.tail_from.size());
  weights_->tables.allocate(static_cast<size_t>(own.source.table_size));
  if (own.plan.num_open > 0) allocate_columns();
}

template <class T>
void PackedPlan<T>::allocate_columns() const {
  const auto size = static_cast<size_t>(layout().column_size);
  if (weights_->columns.data() != nullptr) return;
  T* columns = weights_->columns.allocate(size);
  std::fill(columns, columns + size, T(0));  // nothing else is ever written into gaps
}

template <class T>
PackedPlan<T>::~PackedPlan() {
  const std::lock_guard<std::mutex> held(shared_->lock);
  shared_->spare = std::move(weights_);
}

template <class T>
std::unique_ptr<PackedPlan<T>> PackedPlan<T>::repacked(const WeightSource<T>& weights, int num_threads) const {
  std::unique_ptr<PackedPlan> made(new PackedPlan(shared_));
  return made->template fill<true>(weights, num_threads) ? std::move(made) : nullptr;
}

// Whether it was filled: not if numbers that are checked are not all finite, masked ones and all.
template <class T>
template <bool checked>
bool PackedPlan<T>::fill(const WeightSource<T>& from, int num_threads) {
  const Layout<T>& own = layout();
  if (checked)
    for (const Span& span : own.unread)
      if (from.arrays[static_cast<size_t>(span.array)] &&
          !all_finite(from.arrays[static_cast<size_t>(span.array)] + span.first, span.count))
        return false;
  // What is no sum is written before it is read; until then it shows as nan.
  std::fill(weights_->bias.data(), weights_->bias.data() + weights_->bias.size(), std::numeric_limits<T>::quiet_NaN());
  if (own.source.table_size)
    std::copy(from.arrays.back(), from.arrays.back() + own.source.table_size, weights_->tables.data());
  const int64_t size = std::max<int64_t>(own.most_columns, 1) * kPackedRows;
  AlignedArray<T> rows;
  rows.allocate(static_cast<size_t>(size * num_threads));
  std::vector<std::vector<int64_t>> starts(static_cast<size_t>(num_threads));
  const auto count = static_cast<int64_t>(own.blocks.size());
  bool finite = true;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic) reduction(&& : finite)
  for (int64_t i = 0; i < count; ++i) {
    const Block& block = own.blocks[static_cast<size_t>(i)];
    if (checked && finite) finite = is_finite(block, from);  // which also brings its rows into the cache
    const auto thread = static_cast<size_t>(thread_number());
    if (finite) fill_block(block, from, rows.data() + size * thread_number(), starts[thread]);
  }
  if (!finite) return false;
  if (own.source.in_pairs) pack_pairs();
  point_to_weights();
  return true;
}

template <class T>
bool PackedPlan<T>::is_finite(const Block& block, const WeightSource<T>& from) const {
  const Packing& packing = layout().packings[static_cast<size_t>(block.affine)];
  bool finite = true;
  for (size_t term = 0; term < packing.widths.size(); ++term) {
    const int64_t width = packing.widths[term];
    const T* array = from.arrays[static_cast<size_t>(packing.first_array) + term];
    for (int64_t row = block.first; row < block.first + block.count; ++row)
      finite = all_finite(array + packing.rows[static_cast<size_t>(row)] * width, width) && finite;
  }
  return finite;
}

// Packs some rows of an operation; `rows` holds them meanwhile, column by column.
template <class T>
void PackedPlan<T>::fill_block(const Block& block, const WeightSource<T>& from, T* rows, std::vector<int64_t>& start) {
  const Layout<T>& own = layout();
  const AffineInfo& affine = own.affines[static_cast<size_t>(block.affine)];
  const Packing& packing = own.packings[static_cast<size_t>(block.affine)];
  gather(packing, block, from, rows);
  const T* biases = from.arrays[static_cast<size_t>(packing.bias())];
  for (int64_t r = 0; r < block.count; ++r) {
    const auto row = static_cast<size_t>(block.first + r), slot = static_cast<size_t>(affine.first_slot) + row;
    weights_->bias.data()[slot] = biases ? biases[packing.rows[row]] : T(0);
    for (int64_t i = own.tail_start[slot]; i < own.tail_start[slot + 1]; ++i)
      weights_->tails.data()[i] = rows[own.tail_from[static_cast<size_t>(i)] * kPackedRows + r];
  }
  fill_panels(affine, block, rows);
  if (affine.open < 0) return;
  fill_lookups(affine, packing, block, rows, start);
  // Lookups hold sums where a unit is read twice: these columns cannot be made from them later.
  for (const ColumnTarget& target : packing.columns) {
    if (target.column >= block.most) break;
    const T* column = rows + target.column * kPackedRows - block.first;
    const auto copy = [&](int64_t first, int64_t last) {
      first = std::max(first, block.first);
      last = std::min(last, block.first + block.count);
      T* out = weights_->columns.data() + target.place(first);
      if (last - first == kPackedRows)
        std::memcpy(out, column + first, kPackedRows * sizeof(T));
      else if (first < last)
        std::copy(column + first, column + last, out);
    };
    copy(target.first, std::min(target.far, target.last));
    copy(std::max(target.first, target.far), target.last);
  }
}

// Rows of an operation as (columns, kPackedRows), zeros under the mask and behind the last.
template <class T>
void PackedPlan<T>::gather(const Packing& packing, const Block& block, const WeightSource<T>& from, T* rows) const {
  constexpr int64_t side = 32;
  const int64_t* places = packing.rows.data() + block.first;
  const bool in_order =
      places[block.count - 1] - places[0] == block.count - 1 && std::is_sorted(places, places + block.count);
  for (const Run& run : packing.runs) {
    const T* array = from.arrays[static_cast<size_t>(run.array)] + run.column;
    for (int64_t first = run.first; first < std::min(run.first + run.count, block.most); first += side) {
      const int64_t count = std::min({side, run.first + run.count - first, block.most - first});
      const T* corner = array + first - run.first;
      T* to = rows + first * kPackedRows;
      if (in_order) {
        transpose_part(corner + places[0] * run.width, block.count, count, run.width, to, kPackedRows);
        continue;
      }
      for (int64_t r = 0; r < block.count; ++r)
        for (int64_t c = 0; c < count; ++c) to[c * kPackedRows + r] = corner[places[r] * run.width + c];
    }
  }
  const auto words = static_cast<int64_t>(packing.masked.size() / packing.rows.size());
  for (int64_t r = 0; r < kPackedRows; ++r) {
    const int64_t row = block.first + r, needed = r < block.count ? packing.needed[static_cast<size_t>(row)] : 0;
    for (int64_t c = needed; c < block.most; ++c) rows[c * kPackedRows + r] = T(0);
    for (int64_t word = 0; word < words && r < block.count; ++word)
      for (uint64_t bits = packing.masked[static_cast<size_t>(row * words + word)]; bits; bits &= bits - 1)
        rows[(word * 64 + lowest_bit(bits)) * kPackedRows + r] = T(0);
  }
}

template <class T>
void PackedPlan<T>::fill_panels(const AffineInfo& affine, const Block& block, const T* rows) {
  const Layout<T>& own = layout();
  for (int64_t row = 0; row < block.count; row += kPanelRows) {
    const Panel& panel = own.panels[static_cast<size_t>(affine.first_panel + (block.first + row) / kPanelRows)];
    const auto put = [&](const int32_t* columns, int64_t count, int64_t to) {
      T* out = weights_->panels.data() + to;
      for (int64_t c = 0; c < count; ++c, out += kPanelRows)  // of a known size: two or four moves
        std::memcpy(out, rows + columns[c] * kPackedRows + row, kPanelRows * sizeof(T));
    };
    put(own.quad_from.data() + 4 * affine.first_quad, int64_t{4} * panel.num_quads, panel.quad_weights);
    put(own.panel_from.data() + panel.columns, panel.num_columns, panel.weights);
    put(own.panel_from.data() + panel.late_columns, panel.num_late, panel.late_weights);
    const int32_t* columns = own.panel_from.data() + panel.half_columns;
    T* out = weights_->panels.data() + panel.half_weights;
    for (int32_t c = 0; c < panel.num_half_columns; ++c, out += half)
      std::memcpy(out, rows + columns[c] * kPackedRows + row + half, half * sizeof(T));
  }
}

template <class T>
void PackedPlan<T>::fill_lookups(const AffineInfo& affine, const Packing& packing, const Block& block, const T* rows,
                                 std::vector<int64_t>& start) {
  const Layout<T>& own = layout();
  T* weights = weights_->lookups.data();
  start.resize(own.source.variables.size());  // of the weights of a variable, -1 where a panel has none
  for (int64_t row = 0; row < block.count; row += kPanelRows) {
    const Panel& panel = own.panels[static_cast<size_t>(affine.first_panel + (block.first + row) / kPanelRows)];
    std::fill(start.begin(), start.end(), -1);
    for (int64_t i = panel.lookups; i < panel.lookups + panel.num_lookups; ++i) {
      const Lookup& lookup = own.lookups[static_cast<size_t>(i)];
      const int64_t first = panel.lookup_weights + lookup.weights;
      start[static_cast<size_t>(lookup.place)] = first;
      std::fill(weights + first, weights + first + kPanelRows * own.units_of(lookup.place), T(0));
    }
    for (const LookedUp& unit : packing.looked_up) {
      if (unit.column >= block.most) break;
      const int64_t first = start[static_cast<size_t>(unit.place)];
      if (first < 0) continue;
      const T* from = rows + unit.column * kPackedRows + row;
      for (int64_t r = 0; r < kPanelRows; ++r) weights[first + kPanelRows * unit.category + r] += from[r];
    }
  }
}

template <class T>
const Plan<T>& PackedPlan<T>::plan_with_columns() const {
  std::call_once(columns_, [this] {
    allocate_columns();
    plan_.column_weights = weights_->columns.data();
    for (size_t affine = 0; affine < layout().affines.size(); ++affine)
      if (layout().affines[affine].open < 0) fill_columns(layout().affines[affine], layout().packings[affine]);
  });
  return plan_;
}

// The columns of an operation that looks nothing up, from its panels.
template <class T>
void PackedPlan<T>::fill_columns(const AffineInfo& affine, const Packing& packing) const {
  const Layout<T>& own = layout();
  const T* weights = weights_->panels.data();
  const auto put = [&](const std::vector<int32_t>& columns, int64_t i, int64_t row, int64_t count, const T* from) {
    const int32_t place = packing.target_of[static_cast<size_t>(columns[static_cast<size_t>(i)])];
    if (place < 0) return;  // no row reads it
    const ColumnTarget& target = packing.columns[static_cast<size_t>(place)];
    T* out = weights_->columns.data() + target.place(row);
    const int64_t first = std::max<int64_t>(target.first - row, 0), last = std::min(target.last - row, count);
    for (int64_t r = first; r < last; ++r) out[r] = from[r];
  };
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const Panel& panel = own.panels[static_cast<size_t>(affine.first_panel + row / kPanelRows)];
    for (int64_t c = 0; c < int64_t{4} * panel.num_quads; ++c)
      put(own.quad_from, 4 * affine.first_quad + c, row, kPanelRows, weights + panel.quad_weights + c * kPanelRows);
    for (int64_t c = 0; c < panel.num_columns; ++c)
      put(own.panel_from, panel.columns + c, row, kPanelRows, weights + panel.weights + c * kPanelRows);
    for (int64_t c = 0; c < panel.num_late; ++c)
      put(own.panel_from, panel.late_columns + c, row, kPanelRows, weights + panel.late_weights + c * kPanelRows);
    for (int64_t c = 0; c < panel.num_half_columns; ++c)
      put(own.panel_from, panel.half_columns + c, row + half, half, weights + panel.half_weights + c * half);
    for (int64_t r = row; r < row + panel.num_rows; ++r) {
      const auto slot = static_cast<size_t>(affine.first_slot + r);
      for (int64_t i = own.tail_start[slot]; i < own.tail_start[slot + 1]; ++i)
        put(own.tail_from, i, r, 1, weights_->tails.data() + i);
    }
  }
}

template <class T>
void PackedPlan<T>::unpack(T* to) const {
  const Layout<T>& own = layout();
  const T* columns = plan_with_columns().column_weights;
  std::vector<T*> arrays;
  for (const int64_t size : own.array_sizes) {
    std::fill(to, to + size, T(0));
    arrays.push_back(to);
    to += size;
  }
  for (size_t a = 0; a < own.packings.size(); ++a) {
    const Packing& packing = own.packings[a];
    const T* biases = weights_->bias.data() + own.affines[a].first_slot;
    for (size_t r = 0; r < packing.rows.size(); ++r)
      arrays[static_cast<size_t>(packing.bias())][packing.rows[r]] = biases[r];
    auto run = packing.runs.begin();
    for (const ColumnTarget& target : packing.columns) {
      while (target.column >= run->first + run->count) ++run;
      T* array = arrays[static_cast<size_t>(run->array)] + run->column + target.column - run->first;
      for (int64_t r = target.first; r < target.last; ++r)
        array[packing.rows[static_cast<size_t>(r)] * run->width] = columns[target.place(r)];
    }
  }
  std::copy(weights_->tables.data(), weights_->tables.data() + own.source.table_size, arrays.back());
}

// The 16 high bits of a number that bf16 holds exactly (weights are rounded before they come here).
static uint32_t bf16_bits(double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  return bits >> 16;
}

template <class T>
void PackedPlan<T>::pack_pairs() {
  const Layout<T>& own = layout();
  std::vector<uint32_t> pairs;
  weights_->pair_panels.clear();
  weights_->pair_columns.clear();
  for (const Panel& panel : own.panels) {
    Panel paired{};
    paired.weights = static_cast<int64_t>(pairs.size());
    paired.columns = static_cast<int64_t>(weights_->pair_columns.size());
    paired.num_rows = panel.num_rows;
    std::map<int32_t, size_t> position;  // pair -> where its weights start
    for (int32_t c = 0; c < panel.num_columns; ++c) {
      const int32_t slot = own.panel_columns[static_cast<size_t>(panel.columns + c)];
      const auto [where, fresh] = position.try_emplace(slot / 2, pairs.size());
      if (fresh) {
        weights_->pair_columns.push_back(slot / 2);
        pairs.resize(pairs.size() + kPanelRows, 0);
        ++paired.num_columns;
      }
      const T* from = weights_->panels.data() + panel.weights + int64_t{kPanelRows} * c;
      for (size_t r = 0; r < kPanelRows; ++r)
        pairs[where->second + r] |= bf16_bits(static_cast<double>(from[r])) << (slot % 2 ? 16 : 0);
    }
    weights_->pair_panels.push_back(paired);
  }
  weights_->pairs = std::move(pairs);
}

template <class T>
void PackedPlan<T>::point_to_weights() {
  plan_ = layout().plan;
  plan_.bias = weights_->bias.data();
  plan_.tables = weights_->tables.data();
  plan_.panel_weights = weights_->panels.data();
  plan_.tail_weights = weights_->tails.data();
  plan_.lookup_weights = weights_->lookups.data();
  plan_.column_weights = weights_->columns.data();
  plan_.pair_panels = weights_->pair_panels.data();
  plan_.pair_weights = weights_->pair_panels.empty() ? nullptr : weights_->pairs.data();
  plan_.pair_columns = weights_->pair_columns.data();
}

template <class T>
int64_t PackedPlan<T>::bytes() const {
  const Layout<T>& own = layout();
  return static_cast<int64_t>((weights_->panels.size() + static_cast<size_t>(own.column_size) + weights_->tails.size() +
                               weights_->lookups.size()) *
                                  sizeof(T) +
                              (own.panel_columns.size() + own.tail_columns.size()) * sizeof(int32_t));
}

template class PackedPlan<float>;
template class PackedPlan<double>;

}  // namespace made_fast
