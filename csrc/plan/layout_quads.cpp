// Where the weights of binary variables go that are summed four by four.
#include <algorithm>
#include <utility>

#include "plan/layout.h"

namespace made_fast {

// Whether a variable is binary and read as it is drawn, so that products with it are exact.
template <class T>
static bool is_binary(const Conditional<T>& own, bool in_place) {
  const bool as_drawn = own.encoding == Encoding::number && (in_place || (own.scale == T(1) && own.shift == T(0)));
  return as_drawn && (own.code == Code::bernoulli || own.code == Code::spin);
}

template <class T>
void Layout<T>::list_quads() {
  quad_at.assign(source.variables.size(), -1);
  if (source.in_pairs || sizeof(T) != sizeof(float)) return;  // where it does not pay
  Quad quad{};
  int count = 0;
  for (size_t place = 0; place < source.variables.size(); ++place) {
    const Variable& variable = source.variables[place];
    const Conditional<T>& own = source.conditionals[static_cast<size_t>(variable.conditional)];
    const bool spins = own.code == Code::spin;
    if (!is_binary(own, source.shape.in_place)) {
      count = 0;
      continue;
    }
    if (count == 0 || quad.spins != spins) count = 0;
    quad.spins = spins;
    quad.slots[count++] = variable.x_slot;
    if (count < 4) continue;
    quad.last = static_cast<int32_t>(place);
    quad_at[place] = static_cast<int32_t>(quads.size());
    quads.push_back(quad);
    count = 0;
  }
}

// Finds the quads all of whose columns an operation reads, in order of time.
template <class T>
void Layout<T>::plan_quads(const AffineSource& affine, AffineInfo& info) {
  if (affine.mask || quads.empty()) return;
  std::vector<int32_t> column_of(static_cast<size_t>(source.shape.num_slots), -1);
  for (int64_t column = 0; column < affine.num_columns; ++column) {
    if (looked_up(affine.slots[column])) continue;
    int32_t& known = column_of[static_cast<size_t>(affine.slots[column])];
    known = known == -1 ? static_cast<int32_t>(column) : -2;  // one that is read twice is in no quad
  }
  const size_t first = affine_quads.size();
  for (size_t number = 0; number < quads.size(); ++number) {
    int32_t last = first == affine_quads.size() ? -1 : quad_from.back(), found[4];
    bool follow = true;
    for (int i = 0; i < 4; ++i) {
      found[i] = column_of[static_cast<size_t>(quads[number].slots[i])];
      follow = follow && found[i] > last;
      last = std::max(last, found[i]);
    }
    if (first == affine_quads.size()) info.spins = quads[number].spins;
    if (!follow || info.spins != quads[number].spins) continue;
    affine_quads.push_back(static_cast<int32_t>(number));
    quad_from.insert(quad_from.end(), found, found + 4);
  }
  if (static_cast<int64_t>(affine_quads.size() - first) < std::max<int64_t>(source.least_quads, 1)) {
    affine_quads.resize(first);
    quad_from.resize(4 * first);
    return;
  }
  info.num_quads = static_cast<int32_t>(affine_quads.size() - first);
  info.summed = static_cast<int32_t>(plan.num_summed++);
  plan.looked_slots = std::max(plan.looked_slots, affine.first_slot + affine.num_rows);
}

// How many leading quads are complete when a panel is due, and those behind it.
template <class T>
std::vector<int32_t> Layout<T>::quads_of_panels(const AffineSource& affine, const AffineInfo& info) const {
  std::vector<int32_t> found(static_cast<size_t>((affine.num_rows + kPanelRows - 1) / kPanelRows), 0);
  int32_t most = info.num_quads;
  for (size_t panel = found.size(); panel-- > 0 && most > 0;) {
    const int64_t row = static_cast<int64_t>(panel) * kPanelRows;
    const int64_t known = known_to(affine, row, std::min<int64_t>(kPanelRows, affine.num_rows - row));
    while (most > 0 && quad_from[static_cast<size_t>(4 * (info.first_quad + most) - 1)] >= known) --most;
    found[panel] = most;
  }
  return found;
}

// Panels have their quads one after the other; in columns the four of a quad lie together.
template <class T>
void Layout<T>::plan_quad_columns() {
  std::vector<std::pair<int32_t, QuadColumns>> all;
  for (size_t a = 0; a < affines.size(); ++a) {
    const AffineInfo& info = affines[a];
    Packing& packing = packings[a];
    int64_t row = 0;
    for (int32_t i = 0; i < info.num_quads; ++i) {
      while (row < info.num_rows && panels[static_cast<size_t>(info.first_panel + row / kPanelRows)].num_quads <= i)
        row += kPanelRows;
      int64_t last = 0;
      ColumnTarget* targets[4] = {};
      for (int j = 0; j < 4; ++j) {
        const int32_t target = packing.target_of[static_cast<size_t>(quad_from[4 * (info.first_quad + i) + j])];
        if (target < 0) continue;
        targets[j] = &packing.columns[static_cast<size_t>(target)];
        last = std::max(last, targets[j]->last);
      }
      if (row >= last) continue;
      const int64_t begin = whole_vectors(info.first_slot + row, false),
                    end = whole_vectors(info.first_slot + last, true);
      for (int j = 0; j < 4; ++j) {
        if (targets[j] == nullptr) continue;
        targets[j]->far = row;
        targets[j]->far_out = column_size + j * (end - begin) + info.first_slot - begin;
      }
      all.push_back({affine_quads[static_cast<size_t>(info.first_quad + i)],
                     {column_size, static_cast<int32_t>(begin), static_cast<int32_t>(end - begin)}});
      column_size += 4 * (end - begin);
      plan.looked_slots = std::max(plan.looked_slots, end);
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  quad_start.assign(quads.size() + 1, 0);
  for (const auto& [quad, where] : all) {
    ++quad_start[static_cast<size_t>(quad) + 1];
    quad_columns.push_back(where);
  }
  for (size_t i = 1; i < quad_start.size(); ++i) quad_start[i] += quad_start[i - 1];
}

template <class T>
void Layout<T>::list_places() {
  for (const AffineInfo& info : affines) {
    int32_t most = info.num_quads;
    for (int32_t row = 0; row < info.num_rows; row += kPanelRows) {
      const Panel& panel = panels[static_cast<size_t>(info.first_panel + row / kPanelRows)];
      most = std::max({most, panel.num_columns, panel.num_late, panel.num_half_columns});
      if (info.shares) plan.most_columns = std::max<int64_t>(plan.most_columns, panel.num_columns);
    }
    while (places.size() < static_cast<size_t>(most)) places.push_back(static_cast<int32_t>(places.size()));
  }
}

template void Layout<float>::list_places();
template void Layout<double>::list_places();
template void Layout<float>::list_quads();
template void Layout<double>::list_quads();
template void Layout<float>::plan_quads(const AffineSource&, AffineInfo&);
template void Layout<double>::plan_quads(const AffineSource&, AffineInfo&);
template std::vector<int32_t> Layout<float>::quads_of_panels(const AffineSource&, const AffineInfo&) const;
template std::vector<int32_t> Layout<double>::quads_of_panels(const AffineSource&, const AffineInfo&) const;
template void Layout<float>::plan_quad_columns();
template void Layout<double>::plan_quad_columns();

}  // namespace made_fast
