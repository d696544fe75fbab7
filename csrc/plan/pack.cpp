#include "plan/pack.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "plan/check.h"

namespace made_fast {

static constexpr int64_t half = kPanelRows / 2;

template <class T>
PackedPlan<T>::PackedPlan(PlanSource<T> source) : source_(std::move(source)) {
  check_source(source_);
  const std::vector<AffineSource<T>>& affines = source_.affines;
  tail_start_.assign(static_cast<size_t>(source_.shape.num_slots) + 1, 0);
  list_looked_up();
  for (const auto& affine : affines) {
    plan_panels(affine);
    plan_lookups(affine, affines_.back());
  }
  // Affine operations come in the order of their slots, so tails lie in the order of slots; counts become starts.
  for (size_t i = 1; i < tail_start_.size(); ++i) tail_start_[i] += tail_start_[i - 1];
  T* weights = panel_weights_.allocate(static_cast<size_t>(panel_size_));
  T* of_lookups = lookup_weights_.allocate(static_cast<size_t>(lookup_size_));
  std::fill(of_lookups, of_lookups + lookup_size_, T(0));
  for (size_t i = 0; i < affines.size(); ++i) {
    fill_panels(affines[i], affines_[i], weights);
    fill_lookups(affines[i], affines_[i], of_lookups);
  }
  // What is no sum is written before it is read; until then it shows as nan.
  const size_t slots = static_cast<size_t>(source_.shape.num_slots) + kAlign + kPanelRows;
  T* bias = bias_.allocate(slots);
  std::fill(bias, bias + slots, std::numeric_limits<T>::quiet_NaN());
  for (const auto& affine : affines) std::copy(affine.bias, affine.bias + affine.num_rows, bias + affine.first_slot);
  pack_columns(affines);
  if (source_.in_pairs) pack_pairs();
  list_variables();
  fill_plan();
  source_.affines.clear();  // what they point to is Python's
}

template <class T>
void PackedPlan<T>::list_variables() {
  plan_.plain = source_.shape.in_place;
  plan_.first_param = source_.shape.num_slots;
  for (const Variable& variable : source_.variables) {
    variables_.push_back(variable.number);
    noise_steps_.push_back(variable.noise_step);
    param_slots_.push_back(variable.param_slot);
    plan_.first_param = std::min<int64_t>(plan_.first_param, variable.param_slot);
  }
  for (const Conditional<T>& conditional : source_.conditionals) {
    plan_.plain = plan_.plain && conditional.code == Code::bernoulli;
    plan_.most_params = std::max<int64_t>(plan_.most_params, conditional.num_params);
    plan_.most_draws = std::max<int64_t>(plan_.most_draws, conditional.num_draws);
    plan_.most_rooms = std::max<int64_t>(plan_.most_rooms, rooms_of(conditional));
  }
  plan_.ring = ring_size();
}

// While the parameters of a variable are alive, so are those that share a panel with its first or its last.
template <class T>
int64_t PackedPlan<T>::ring_size() const {
  const auto whole = [](int64_t count) { return (count + kPanelRows - 1) / kPanelRows * kPanelRows; };
  const int64_t all = source_.shape.num_slots - plan_.first_param, least = whole(plan_.most_params + 2 * kPanelRows);
  const bool summed = !source_.affines.empty() && source_.affines.back().first_slot == plan_.first_param;
  if (source_.shape.in_place || !summed || least >= all) return whole(all);
  // A whole number of variables spares those that reach over the end, where all have the same number of parameters.
  const int64_t repeat = std::lcm(plan_.most_params, int64_t{kPanelRows});
  const int64_t even = (least + repeat - 1) / repeat * repeat;
  return even <= 4096 ? std::min(even, whole(all)) : least;
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
  for (const Panel& panel : panels_) {
    Panel paired{};
    paired.weights = static_cast<int64_t>(pair_weights_.size());
    paired.columns = static_cast<int64_t>(pair_columns_.size());
    paired.num_rows = panel.num_rows;
    std::map<int32_t, size_t> position;  // pair -> where its weights start
    for (int32_t c = 0; c < panel.num_columns; ++c) {
      const int32_t slot = panel_columns_[static_cast<size_t>(panel.columns + c)];
      const auto [where, fresh] = position.try_emplace(slot / 2, pair_weights_.size());
      if (fresh) {
        pair_columns_.push_back(slot / 2);
        pair_weights_.resize(pair_weights_.size() + kPanelRows, 0);
        ++paired.num_columns;
      }
      const T* from = panel_weights_.data() + panel.weights + int64_t{kPanelRows} * c;
      for (size_t r = 0; r < kPanelRows; ++r)
        pair_weights_[where->second + r] |= bf16_bits(static_cast<double>(from[r])) << (slot % 2 ? 16 : 0);
    }
    pair_panels_.push_back(paired);
  }
}

template <class T>
void PackedPlan<T>::plan_panels(const AffineSource<T>& affine) {
  affines_.push_back({static_cast<int32_t>(affine.first_slot), static_cast<int32_t>(panels_.size()),
                      static_cast<int32_t>(affine.num_rows), -1});
  // Without a mask every panel reads leading columns, and all panels share one list of slots.
  const int64_t shared = static_cast<int64_t>(panel_columns_.size());
  if (!affine.mask)
    std::copy_if(affine.slots, affine.slots + affine.num_columns, std::back_inserter(panel_columns_),
                 [this](int64_t slot) { return !looked_up(slot); });
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, affine.num_rows - row);
    const int64_t known = known_to(affine, row, rows);
    Panel panel{};
    panel.num_rows = static_cast<int32_t>(rows);
    panel.columns = list_columns(affine, shared, row, rows, 0, known, panel.num_columns);
    panel.weights = panel_size_;
    panel_size_ += int64_t{kPanelRows} * panel.num_columns;
    panel_macs_ += int64_t{kPanelRows} * panel.num_columns;
    const int64_t later = rows > half ? std::max(known, known_to(affine, row + half, rows - half)) : known;
    panel.half_columns = list_columns(affine, shared, row + half, rows - half, known, later, panel.num_half_columns);
    panel.half_weights = panel_size_;
    panel_size_ += half * panel.num_half_columns;
    panel_macs_ += half * panel.num_half_columns;
    panels_.push_back(panel);
    for (int64_t r = row; r < row + rows; ++r) plan_tail(affine, r, r < row + half ? known : later);
  }
}

// How many leading columns are known when the first of some rows is due, as far as any of them reads.
template <class T>
int64_t PackedPlan<T>::known_to(const AffineSource<T>& affine, int64_t row, int64_t rows) {
  const int64_t widest = *std::max_element(affine.needed + row, affine.needed + row + rows);
  return std::min(affine.ready[row], widest);
}

// Where the slots of the columns [begin, end) that any of the rows reads are listed, and how many they are.
template <class T>
int64_t PackedPlan<T>::list_columns(const AffineSource<T>& affine, int64_t shared, int64_t row, int64_t rows,
                                    int64_t begin, int64_t end, int32_t& count) {
  const auto has_slot = [this](int64_t slot) { return !looked_up(slot); };
  if (!affine.mask) {
    count = static_cast<int32_t>(std::count_if(affine.slots + begin, affine.slots + end, has_slot));
    return shared + std::count_if(affine.slots, affine.slots + begin, has_slot);
  }
  const auto start = static_cast<int64_t>(panel_columns_.size());
  for (int64_t column = begin; column < end; ++column) {
    bool any = false;
    for (int64_t r = row; r < row + rows; ++r) any |= affine.reads(r, column);
    if (any && has_slot(affine.slots[column])) panel_columns_.push_back(static_cast<int32_t>(affine.slots[column]));
  }
  count = static_cast<int32_t>(static_cast<int64_t>(panel_columns_.size()) - start);
  return start;
}

template <class T>
void PackedPlan<T>::plan_tail(const AffineSource<T>& affine, int64_t row, int64_t from) {
  for (int64_t column = from; column < affine.needed[row]; ++column) {
    if (looked_up(affine.slots[column]) || !affine.reads(row, column)) continue;
    tail_columns_.push_back(static_cast<int32_t>(affine.slots[column]));
    tail_weights_.push_back(affine.weights[row * affine.num_columns + column]);
    ++tail_start_[static_cast<size_t>(affine.first_slot + row) + 1];
    ++panel_macs_;
  }
}

// Variables come in the order of drawing, those that are looked up with units behind the slots.
template <class T>
void PackedPlan<T>::list_looked_up() {
  for (size_t place = 0; place < source_.variables.size(); ++place) {
    const auto number = static_cast<int32_t>(place);
    if (looked_up(source_.variables[place].x_slot))
      place_of_.insert(place_of_.end(), static_cast<size_t>(units_of(number)), number);
  }
  num_lookups_.assign(static_cast<size_t>(source_.shape.num_slots), 0);
}

// Lists for each panel the variables that it looks up, in order of time; a list serves all panels where there is no
// mask.
template <class T>
void PackedPlan<T>::plan_lookups(const AffineSource<T>& affine, AffineInfo& info) {
  struct Known {
    int32_t place;
    int64_t first, last;  // columns
  };
  std::vector<Known> all;
  for (int64_t column = 0; column < affine.num_columns; ++column) {
    if (!looked_up(affine.slots[column])) continue;
    const int32_t place = place_of_[static_cast<size_t>(affine.slots[column] - source_.shape.num_slots)];
    if (all.empty() || all.back().place != place) all.push_back({place, column, column});
    all.back().last = column;
  }
  if (all.empty()) return;
  info.open = static_cast<int32_t>(plan_.num_open++);
  plan_.looked_slots = affine.first_slot + affine.num_rows;
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, affine.num_rows - row);
    Panel& panel = panels_[static_cast<size_t>(info.first_panel + row / kPanelRows)];
    panel.lookups = static_cast<int64_t>(lookups_.size());
    panel.lookup_weights = lookup_size_;
    int64_t size = 0;
    for (const Known& known : all) {
      bool any = false;
      for (int64_t r = row; r < row + rows && !any; ++r)
        for (int64_t column = known.first; column <= known.last && !any; ++column) any = affine.reads(r, column);
      if (!any) continue;
      lookups_.push_back({known.place, size});
      ++panel.num_lookups;
      size += kPanelRows * units_of(known.place);
      for (int64_t r = row; r < row + rows; ++r)
        if (known.first < std::min(affine.ready[r], affine.needed[r]))
          num_lookups_[static_cast<size_t>(affine.first_slot + r)] = panel.num_lookups;
    }
    lookup_size_ += size;
    panel_macs_ += kPanelRows * panel.num_lookups;
  }
}

template <class T>
void PackedPlan<T>::fill_lookups(const AffineSource<T>& affine, const AffineInfo& info, T* weights) const {
  if (info.open < 0) return;
  std::vector<int64_t> start(source_.variables.size());  // of the weights of a variable, -1 where a panel has none
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const Panel& panel = panels_[static_cast<size_t>(info.first_panel + row / kPanelRows)];
    std::fill(start.begin(), start.end(), -1);
    for (int64_t i = panel.lookups; i < panel.lookups + panel.num_lookups; ++i) {
      const Lookup& lookup = lookups_[static_cast<size_t>(i)];
      start[static_cast<size_t>(lookup.place)] = panel.lookup_weights + lookup.weights;
    }
    for (int64_t column = 0; column < affine.num_columns; ++column) {
      if (!looked_up(affine.slots[column])) continue;
      const auto place =
          static_cast<size_t>(place_of_[static_cast<size_t>(affine.slots[column] - source_.shape.num_slots)]);
      if (start[place] < 0) continue;
      const int64_t category = affine.slots[column] - source_.variables[place].x_slot;
      const T* from = affine.transposed + column * affine.num_rows + row;
      for (int32_t r = 0; r < panel.num_rows; ++r) weights[start[place] + kPanelRows * category + r] += from[r];
    }
  }
}

template <class T>
void PackedPlan<T>::fill_panels(const AffineSource<T>& affine, const AffineInfo& info, T* weights) const {
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const Panel& panel = panels_[static_cast<size_t>(info.first_panel + row / kPanelRows)];
    int64_t column = 0;  // of the operation; lists are in its order
    const auto copy = [&](int64_t list, int32_t count, int64_t first, int64_t per_column, T* out) {
      for (int32_t c = 0; c < count; ++c, ++column, out += per_column) {
        while (affine.slots[column] != panel_columns_[static_cast<size_t>(list + c)]) ++column;
        const T* from = affine.transposed + column * affine.num_rows;
        const int64_t there = std::min(per_column, row + panel.num_rows - first);
        if (there == kPanelRows)
          std::memcpy(out, from + first, kPanelRows * sizeof(T));  // of a known size: two or four moves
        else
          for (int64_t r = 0; r < per_column; ++r) out[r] = r < there ? from[first + r] : T(0);
      }
    };
    copy(panel.columns, panel.num_columns, row, kPanelRows, weights + panel.weights);
    copy(panel.half_columns, panel.num_half_columns, row + half, half, weights + panel.half_weights);
  }
}

template <class T>
std::vector<typename PackedPlan<T>::ColumnSource> PackedPlan<T>::find_columns(
    const std::vector<AffineSource<T>>& affines) {
  std::vector<ColumnSource> found;
  for (size_t a = 0; a < affines.size(); ++a) {
    const auto& affine = affines[a];
    std::vector<int64_t> first(static_cast<size_t>(affine.num_columns), 0), last(first);
    // From either end: the first row to read a column, looking only at columns that no row before it could claim.
    const auto claim = [&](std::vector<int64_t>& claimed, int64_t r, int64_t& covered, int64_t value) {
      for (int64_t c = affine.mask ? 0 : covered; c < affine.needed[r]; ++c)
        if (claimed[static_cast<size_t>(c)] == 0 && affine.reads(r, c)) claimed[static_cast<size_t>(c)] = value;
      covered = std::max(covered, affine.needed[r]);
    };
    int64_t from_front = 0, from_back = 0;
    for (int64_t r = 0; r < affine.num_rows; ++r) claim(first, r, from_front, r + 1);  // 0: nobody yet
    for (int64_t r = affine.num_rows; r-- > 0;) claim(last, r, from_back, r + 1);
    for (int64_t column = 0; column < affine.num_columns; ++column) {
      const auto c = static_cast<size_t>(column);
      if (last[c]) found.push_back({affine.slots[column], static_cast<int64_t>(a), column, first[c] - 1, last[c]});
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const ColumnSource& a, const ColumnSource& b) { return a.slot < b.slot; });
  return found;
}

template <class T>
void PackedPlan<T>::pack_columns(const std::vector<AffineSource<T>>& affines) {
  constexpr int64_t lanes = kAlign / static_cast<int64_t>(sizeof(T));
  const std::vector<ColumnSource> found = find_columns(affines);
  column_start_.assign(static_cast<size_t>(source_.shape.num_slots) + place_of_.size() + 1, 0);
  for (const ColumnSource& f : found) {
    const int64_t first_slot = affines[static_cast<size_t>(f.affine)].first_slot;
    const int64_t begin = (first_slot + f.first) / lanes * lanes;
    const int64_t end = (first_slot + f.last + lanes - 1) / lanes * lanes;
    columns_.push_back({column_macs_, static_cast<int32_t>(begin), static_cast<int32_t>(end - begin)});
    column_macs_ += end - begin;
    ++column_start_[static_cast<size_t>(f.slot) + 1];
    if (looked_up(f.slot)) plan_.looked_slots = std::max(plan_.looked_slots, end);
  }
  for (size_t i = 1; i < column_start_.size(); ++i) column_start_[i] += column_start_[i - 1];
  T* weights = column_weights_.allocate(static_cast<size_t>(column_macs_));
  for (size_t i = 0; i < found.size(); ++i) {
    const auto& affine = affines[static_cast<size_t>(found[i].affine)];
    const T* from = affine.transposed + found[i].column * affine.num_rows;
    const int64_t before = affine.first_slot + found[i].first - columns_[i].first_slot;
    T* out = weights + columns_[i].weights;
    std::fill(out, out + columns_[i].count, T(0));
    std::copy(from + found[i].first, from + found[i].last, out + before);
  }
}

template <class T>
void PackedPlan<T>::fill_plan() {
  Plan<T>& p = plan_;
  p.features = source_.shape.features;
  p.context_features = source_.shape.context_features;
  p.num_slots = source_.shape.num_slots;
  p.x_slot = source_.shape.x_slot;
  p.context_slot = source_.shape.context_slot;
  p.num_context_units = static_cast<int64_t>(source_.context_units.size());
  p.num_steps = static_cast<int64_t>(source_.steps.size());
  p.macs = panel_macs_;
  p.steps = source_.steps.data();
  p.sorted = std::is_sorted(variables_.begin(), variables_.end());
  p.in_place = source_.shape.in_place;
  p.variables = variables_.data();
  p.noise_steps = noise_steps_.data();
  p.param_slots = param_slots_.data();
  p.drawn = source_.variables.data();
  p.conditionals = source_.conditionals.data();
  p.tables = source_.tables.data();
  p.context_units = source_.context_units.data();
  p.affines = affines_.data();
  p.num_affines = static_cast<int64_t>(affines_.size());
  p.bias = bias_.data();
  p.panels = panels_.data();
  p.panel_weights = panel_weights_.data();
  p.panel_columns = panel_columns_.data();
  p.pair_panels = pair_panels_.data();
  p.pair_weights = pair_panels_.empty() ? nullptr : pair_weights_.data();
  p.pair_columns = pair_columns_.data();
  p.tail_start = tail_start_.data();
  p.tail_columns = tail_columns_.data();
  p.tail_weights = tail_weights_.data();
  p.lookups = lookups_.data();
  p.lookup_weights = lookup_weights_.data();
  p.num_lookups = num_lookups_.data();
  p.column_start = column_start_.data();
  p.columns = columns_.data();
  p.column_weights = column_weights_.data();
}

template <class T>
int64_t PackedPlan<T>::bytes() const {
  return static_cast<int64_t>(
      (panel_weights_.size() + column_weights_.size() + tail_weights_.size() + lookup_weights_.size()) * sizeof(T) +
      (panel_columns_.size() + tail_columns_.size()) * sizeof(int32_t));
}

template class PackedPlan<float>;
template class PackedPlan<double>;

}  // namespace made_fast
