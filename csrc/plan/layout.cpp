#include "plan/layout.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "plan/check.h"

namespace made_fast {

static constexpr int64_t half = kPanelRows / 2;

template <class T>
Layout<T>::Layout(PlanSource<T> given) : source(std::move(given)) {
  check_source(source);
  tail_start.assign(static_cast<size_t>(source.shape.num_slots) + 1, 0);
  list_looked_up();
  list_quads();
  for (const AffineSource& affine : source.affines) {
    plan_panels(affine);
    plan_lookups(affine, affines.back());
    plan_packing(affine);
  }
  // Affine operations come in the order of their slots, so tails lie in the order of slots; counts become starts.
  for (size_t i = 1; i < tail_start.size(); ++i) tail_start[i] += tail_start[i - 1];
  unread.push_back({static_cast<int64_t>(array_sizes.size()), 0, source.table_size});
  array_sizes.push_back(source.table_size);
  plan_columns();
  list_variables();
  fill_plan();
  source.affines.clear();  // what they point to is Python's
}

template <class T>
void Layout<T>::list_variables() {
  plan.plain = source.shape.in_place;
  plan.first_param = source.shape.num_slots;
  for (const Variable& variable : source.variables) {
    variables.push_back(variable.number);
    noise_steps.push_back(variable.noise_step);
    param_slots.push_back(variable.param_slot);
    plan.first_param = std::min<int64_t>(plan.first_param, variable.param_slot);
  }
  for (const Conditional<T>& conditional : source.conditionals) {
    plan.plain = plan.plain && conditional.code == Code::bernoulli;
    plan.most_params = std::max<int64_t>(plan.most_params, conditional.num_params);
    plan.most_draws = std::max<int64_t>(plan.most_draws, conditional.num_draws);
    plan.most_rooms = std::max<int64_t>(plan.most_rooms, rooms_of(conditional));
  }
  plan.ring = ring_size();
}

// While the parameters of a variable are alive, so are those that share a panel with its first or its last.
template <class T>
int64_t Layout<T>::ring_size() const {
  const auto whole = [](int64_t count) { return (count + kPanelRows - 1) / kPanelRows * kPanelRows; };
  const int64_t all = source.shape.num_slots - plan.first_param, least = whole(plan.most_params + 2 * kPanelRows);
  const bool summed = !source.affines.empty() && source.affines.back().first_slot == plan.first_param;
  if (source.shape.in_place || !summed || least >= all) return whole(all);
  // A whole number of variables spares those that reach over the end, where all have the same number of parameters.
  const int64_t repeat = std::lcm(plan.most_params, int64_t{kPanelRows});
  const int64_t even = (least + repeat - 1) / repeat * repeat;
  return even <= 4096 ? std::min(even, whole(all)) : least;
}

template <class T>
void Layout<T>::plan_panels(const AffineSource& affine) {
  affines.push_back({static_cast<int32_t>(affine.first_slot), static_cast<int32_t>(panels.size()),
                     static_cast<int32_t>(affine.num_rows), -1, -1, 0, static_cast<int64_t>(affine_quads.size()), false,
                     affine.mask == nullptr});
  plan_quads(affine, affines.back());
  const AffineInfo info = affines.back();
  const std::vector<int32_t> quads_of = quads_of_panels(affine, info);
  const Shared shared = list_shared(affine, info);
  const auto take = [this](int64_t width, int64_t count) {
    const int64_t start = panel_size;
    panel_size += width * count;
    panel_macs += width * count;
    return start;
  };
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, affine.num_rows - row);
    const int64_t known = known_to(affine, row, rows);
    Panel panel{};
    panel.num_rows = static_cast<int32_t>(rows);
    panel.num_quads = quads_of[static_cast<size_t>(row / kPanelRows)];
    panel.quad_weights = take(kPanelRows, int64_t{4} * panel.num_quads);
    if (info.num_quads > 0) {
      const int64_t next =
          panel.num_quads < info.num_quads ? quad_from[4 * (info.first_quad + panel.num_quads)] : known;
      const int64_t early = std::min(known, next);
      panel.columns = shared.apart;
      panel.num_columns = static_cast<int32_t>(shared_to(shared.apart, shared.end, early) - shared.apart);
      panel.late_columns = shared_to(shared.all, shared.apart, early);
      panel.num_late = static_cast<int32_t>(shared_to(shared.all, shared.apart, known) - panel.late_columns);
    } else {
      panel.columns = list_columns(affine, shared, row, rows, 0, known, panel.num_columns);
    }
    panel.weights = take(kPanelRows, panel.num_columns);
    panel.late_weights = take(kPanelRows, panel.num_late);
    const int64_t later = rows > half ? std::max(known, known_to(affine, row + half, rows - half)) : known;
    panel.half_columns = list_columns(affine, shared, row + half, rows - half, known, later, panel.num_half_columns);
    panel.half_weights = take(half, panel.num_half_columns);
    panels.push_back(panel);
    for (int64_t r = row; r < row + rows; ++r) plan_tail(affine, r, r < row + half ? known : later);
  }
}

// Without a mask every panel reads leading columns, and all panels share lists of slots.
template <class T>
typename Layout<T>::Shared Layout<T>::list_shared(const AffineSource& affine, const AffineInfo& info) {
  const auto size = [this] { return static_cast<int64_t>(panel_columns.size()); };
  const int64_t all = size();
  if (affine.mask) {
    make_room(affine);
    return {all, all, all};
  }
  for (int64_t column = 0; column < affine.num_columns; ++column) list_column(affine, column);
  if (info.num_quads == 0) return {all, all, size()};
  const int64_t apart = size();
  const auto first = quad_from.begin() + 4 * info.first_quad;
  for (int64_t column = 0; column < affine.num_columns; ++column)
    if (!std::binary_search(first, quad_from.end(), column)) list_column(affine, column);
  return {all, apart, size()};
}

// Of a shared list [first, end), where the columns from `column` on begin.
template <class T>
int64_t Layout<T>::shared_to(int64_t first, int64_t end, int64_t column) const {
  return std::lower_bound(panel_from.begin() + first, panel_from.begin() + end, column) - panel_from.begin();
}

// Lists that grow bit by bit touch twice the memory that they need.
template <class T>
void Layout<T>::make_room(const AffineSource& affine) {
  size_t most = panel_columns.size();
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows)
    most += static_cast<size_t>(affine.needed[std::min(row + kPanelRows, affine.num_rows) - 1]);
  panel_columns.reserve(most);
  panel_from.reserve(most);
}

// How many leading columns are known when the first of some rows is due, as far as any of them reads.
template <class T>
int64_t Layout<T>::known_to(const AffineSource& affine, int64_t row, int64_t rows) {
  const int64_t widest = *std::max_element(affine.needed + row, affine.needed + row + rows);
  return std::min(affine.ready[row], widest);
}

// Where the slots of the columns [begin, end) that any of the rows reads are listed, and how many they are.
template <class T>
int64_t Layout<T>::list_columns(const AffineSource& affine, const Shared& shared, int64_t row, int64_t rows,
                                int64_t begin, int64_t end, int32_t& count) {
  if (!affine.mask) {
    const int64_t last = shared.apart > shared.all ? shared.apart : shared.end,
                  first = shared_to(shared.all, last, begin);
    count = static_cast<int32_t>(shared_to(shared.all, last, end) - first);
    return first;
  }
  const auto start = static_cast<int64_t>(panel_columns.size());
  std::vector<uint8_t> any(static_cast<size_t>(affine.num_columns), 0);
  for (int64_t r = row; r < row + rows; ++r) {
    const uint8_t* mask = affine.mask + r * affine.num_columns;
    std::transform(mask + begin, mask + end, any.begin() + begin, any.begin() + begin, std::bit_or<uint8_t>());
  }
  for (int64_t column = begin; column < end; ++column)
    if (any[static_cast<size_t>(column)]) list_column(affine, column);
  count = static_cast<int32_t>(static_cast<int64_t>(panel_columns.size()) - start);
  return start;
}

template <class T>
void Layout<T>::list_column(const AffineSource& affine, int64_t column) {
  if (looked_up(affine.slots[column])) return;
  panel_columns.push_back(static_cast<int32_t>(affine.slots[column]));
  panel_from.push_back(static_cast<int32_t>(column));
}

template <class T>
void Layout<T>::plan_tail(const AffineSource& affine, int64_t row, int64_t from) {
  for (int64_t column = from; column < affine.needed[row]; ++column) {
    if (looked_up(affine.slots[column]) || !affine.reads(row, column)) continue;
    tail_columns.push_back(static_cast<int32_t>(affine.slots[column]));
    tail_from.push_back(static_cast<int32_t>(column));
    ++tail_start[static_cast<size_t>(affine.first_slot + row) + 1];
    ++panel_macs;
  }
}

// Variables come in the order of drawing, those that are looked up with units behind the slots.
template <class T>
void Layout<T>::list_looked_up() {
  for (size_t place = 0; place < source.variables.size(); ++place) {
    const auto number = static_cast<int32_t>(place);
    if (looked_up(source.variables[place].x_slot))
      place_of.insert(place_of.end(), static_cast<size_t>(units_of(number)), number);
  }
  num_lookups.assign(static_cast<size_t>(source.shape.num_slots), 0);
}

// Lists for each panel the variables that it looks up, in order of time; a list serves all panels where there is no
// mask.
template <class T>
void Layout<T>::plan_lookups(const AffineSource& affine, AffineInfo& info) {
  struct Known {
    int32_t place;
    int64_t first, last;  // columns
  };
  std::vector<Known> all;
  for (int64_t column = 0; column < affine.num_columns; ++column) {
    if (!looked_up(affine.slots[column])) continue;
    const int32_t place = place_of[static_cast<size_t>(affine.slots[column] - source.shape.num_slots)];
    if (all.empty() || all.back().place != place) all.push_back({place, column, column});
    all.back().last = column;
  }
  if (all.empty()) return;
  info.open = static_cast<int32_t>(plan.num_open++);
  plan.looked_slots = std::max(plan.looked_slots, affine.first_slot + affine.num_rows);
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, affine.num_rows - row);
    Panel& panel = panels[static_cast<size_t>(info.first_panel + row / kPanelRows)];
    panel.lookups = static_cast<int64_t>(lookups.size());
    panel.lookup_weights = lookup_size;
    int64_t size = 0;
    for (const Known& known : all) {
      bool any = false;
      for (int64_t r = row; r < row + rows && !any; ++r)
        for (int64_t column = known.first; column <= known.last && !any; ++column) any = affine.reads(r, column);
      if (!any) continue;
      lookups.push_back({known.place, size});
      ++panel.num_lookups;
      size += kPanelRows * units_of(known.place);
      for (int64_t r = row; r < row + rows; ++r)
        if (known.first < std::min(affine.ready[r], affine.needed[r]))
          num_lookups[static_cast<size_t>(affine.first_slot + r)] = panel.num_lookups;
    }
    lookup_size += size;
    panel_macs += kPanelRows * panel.num_lookups;
  }
}

template <class T>
std::vector<typename Layout<T>::ColumnSource> Layout<T>::find_columns() const {
  std::vector<ColumnSource> found;
  for (size_t a = 0; a < source.affines.size(); ++a) {
    const AffineSource& affine = source.affines[a];
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
void Layout<T>::plan_columns() {
  column_start.assign(static_cast<size_t>(source.shape.num_slots) + place_of.size() + 1, 0);
  const std::vector<ColumnSource> all = find_columns();
  for (const ColumnSource& found : all)
    packings[static_cast<size_t>(found.affine)].columns.push_back(
        {found.column, found.first, found.last, 0, found.last, 0});
  for (Packing& packing : packings) {
    std::sort(packing.columns.begin(), packing.columns.end(),
              [](const ColumnTarget& a, const ColumnTarget& b) { return a.column < b.column; });
    for (size_t i = 0; i < packing.columns.size(); ++i)
      packing.target_of[static_cast<size_t>(packing.columns[i].column)] = static_cast<int32_t>(i);
  }
  plan_quad_columns();
  for (const ColumnSource& found : all) {
    Packing& packing = packings[static_cast<size_t>(found.affine)];
    const int64_t first_slot = source.affines[static_cast<size_t>(found.affine)].first_slot;
    ColumnTarget& target = packing.columns[static_cast<size_t>(packing.target_of[static_cast<size_t>(found.column)])];
    if (target.first >= target.far) continue;
    const int64_t begin = whole_vectors(first_slot + target.first, false);
    const int64_t end = whole_vectors(first_slot + std::min(target.far, target.last), true);
    target.out = column_size + first_slot - begin;
    columns.push_back({column_size, static_cast<int32_t>(begin), static_cast<int32_t>(end - begin)});
    column_size += end - begin;
    ++column_start[static_cast<size_t>(found.slot) + 1];
    if (looked_up(found.slot)) plan.looked_slots = std::max(plan.looked_slots, end);
  }
  for (size_t i = 1; i < column_start.size(); ++i) column_start[i] += column_start[i - 1];
}

// Notes where the weights of an operation come from.
template <class T>
void Layout<T>::plan_packing(const AffineSource& affine) {
  Packing packing{};
  packing.first_array = static_cast<int64_t>(array_sizes.size());
  packing.widths = affine.widths;
  packing.target_of.assign(static_cast<size_t>(affine.num_columns), -1);
  std::vector<int64_t> array_of, column_of;  // of each column of all terms side by side
  for (const int64_t width : affine.widths) {
    for (int64_t column = 0; column < width; ++column) {
      array_of.push_back(static_cast<int64_t>(array_sizes.size()));
      column_of.push_back(column);
    }
    array_sizes.push_back(affine.height * width);
  }
  for (int64_t column = 0; column < affine.num_columns; ++column) {
    const auto from = static_cast<size_t>(affine.columns[column]);
    if (packing.runs.empty() || packing.runs.back().array != array_of[from] ||
        packing.runs.back().column + packing.runs.back().count != column_of[from])
      packing.runs.push_back({column, 0, array_of[from],
                              affine.widths[static_cast<size_t>(array_of[from] - packing.first_array)],
                              column_of[from]});
    ++packing.runs.back().count;
    if (!looked_up(affine.slots[column])) continue;
    const int32_t place = place_of[static_cast<size_t>(affine.slots[column] - source.shape.num_slots)];
    const int64_t category = affine.slots[column] - source.variables[static_cast<size_t>(place)].x_slot;
    packing.looked_up.push_back({column, place, static_cast<int32_t>(category)});
  }
  unread.push_back({packing.bias(), 0, affine.height});
  array_sizes.push_back(affine.height);
  std::vector<bool> is_read(static_cast<size_t>(affine.height), false);
  for (int64_t row = 0; row < affine.num_rows; ++row) is_read[static_cast<size_t>(affine.rows[row])] = true;
  for (int64_t row = 0; row < affine.height; ++row)
    for (int64_t term = 0; term < packing.bias() - packing.first_array && !is_read[static_cast<size_t>(row)]; ++term) {
      const int64_t width = affine.widths[static_cast<size_t>(term)];
      unread.push_back({packing.first_array + term, row * width, width});
    }
  packing.rows.assign(affine.rows, affine.rows + affine.num_rows);
  packing.needed.assign(affine.needed, affine.needed + affine.num_rows);
  if (affine.mask) {
    const int64_t words = (affine.num_columns + 63) / 64;
    packing.masked.assign(static_cast<size_t>(affine.num_rows * words), 0);
    for (int64_t row = 0; row < affine.num_rows; ++row)
      for (int64_t column = 0; column < affine.needed[row]; ++column)
        packing.masked[static_cast<size_t>(row * words + column / 64)] |= uint64_t{!affine.reads(row, column)}
                                                                          << column % 64;
  }
  for (int64_t row = 0; row < affine.num_rows; row += kPackedRows) {
    const int64_t count = std::min(kPackedRows, affine.num_rows - row);
    const int64_t most = *std::max_element(affine.needed + row, affine.needed + row + count);
    blocks.push_back({static_cast<int64_t>(packings.size()), row, count, most});
    most_columns = std::max(most_columns, most);
  }
  packings.push_back(std::move(packing));
}

template <class T>
void Layout<T>::fill_plan() {
  Plan<T>& p = plan;
  p.features = source.shape.features;
  p.context_features = source.shape.context_features;
  p.num_slots = source.shape.num_slots;
  p.x_slot = source.shape.x_slot;
  p.context_slot = source.shape.context_slot;
  p.num_context_units = static_cast<int64_t>(source.context_units.size());
  p.num_steps = static_cast<int64_t>(source.steps.size());
  p.macs = panel_macs;
  p.steps = source.steps.data();
  p.sorted = std::is_sorted(variables.begin(), variables.end());
  p.in_place = source.shape.in_place;
  p.variables = variables.data();
  p.noise_steps = noise_steps.data();
  p.param_slots = param_slots.data();
  p.drawn = source.variables.data();
  p.conditionals = source.conditionals.data();
  p.context_units = source.context_units.data();
  p.affines = affines.data();
  p.num_affines = static_cast<int64_t>(affines.size());
  p.panels = panels.data();
  p.panel_columns = panel_columns.data();
  list_places();
  p.places = places.data();
  p.tail_start = tail_start.data();
  p.tail_columns = tail_columns.data();
  p.lookups = lookups.data();
  p.num_lookups = num_lookups.data();
  p.quads = quads.data();
  p.num_quads = static_cast<int64_t>(quads.size());
  p.quad_at = quad_at.data();
  p.affine_quads = affine_quads.data();
  p.quad_start = quad_start.data();
  p.quad_columns = quad_columns.data();
  p.column_start = column_start.data();
  p.columns = columns.data();
}

template class Layout<float>;
template class Layout<double>;

}  // namespace made_fast
