#include "pack.h"

#include <algorithm>
#include <limits>

namespace made_fast {

template <class T>
PackedPlan<T>::PackedPlan(const Shape& shape, std::vector<Step> steps, std::vector<int32_t> variables,
                          std::vector<int32_t> noise_steps, std::vector<int32_t> param_slots,
                          std::vector<int32_t> context_units, const std::vector<AffineSource<T>>& affines)
    : shape_(shape),
      steps_(std::move(steps)),
      variables_(std::move(variables)),
      noise_steps_(std::move(noise_steps)),
      param_slots_(std::move(param_slots)),
      context_units_(std::move(context_units)) {
  // What is no sum is written before it is read; until then it shows as nan.
  std::vector<T> bias(static_cast<size_t>(shape.num_slots), std::numeric_limits<T>::quiet_NaN());
  tail_start_.assign(static_cast<size_t>(shape.num_slots) + 1, 0);
  size_t panel_values = 0;
  for (const auto& affine : affines) panel_values += static_cast<size_t>(affine.num_rows * affine.num_columns);
  panel_weights_growing_.reserve(panel_values * 5 / 8);
  for (const auto& affine : affines) {
    std::copy(affine.bias, affine.bias + affine.num_rows, bias.begin() + affine.first_slot);
    pack_panels(affine);
  }
  // Affine operations come in the order of their slots, so tails lie in the order of slots; counts become starts.
  for (size_t i = 1; i < tail_start_.size(); ++i) tail_start_[i] += tail_start_[i - 1];
  bias_.assign(bias, kAlign + kPanelRows);
  panel_weights_.assign(panel_weights_growing_);
  panel_weights_growing_ = {};
  pack_columns(affines);
}

template <class T>
void PackedPlan<T>::pack_panels(const AffineSource<T>& affine) {
  affines_.push_back({static_cast<int32_t>(affine.first_slot), static_cast<int32_t>(panels_.size())});
  // Without a mask every panel reads leading columns, and all panels share one list of slots.
  const int64_t shared = static_cast<int64_t>(panel_columns_.size());
  if (!affine.mask) panel_columns_.insert(panel_columns_.end(), affine.slots, affine.slots + affine.num_columns);
  for (int64_t row = 0; row < affine.num_rows; row += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, affine.num_rows - row);
    const int64_t widest = *std::max_element(affine.needed + row, affine.needed + row + rows);
    const int64_t limit = std::min(affine.ready[row], widest);
    const auto used = [&](int64_t r, int64_t column) {
      return affine.mask ? affine.mask[r * affine.num_columns + column] != 0 : column < affine.needed[r];
    };
    Panel panel{static_cast<int64_t>(panel_weights_growing_.size()), shared, 0, static_cast<int32_t>(rows)};
    if (affine.mask) panel.columns = static_cast<int64_t>(panel_columns_.size());
    for (int64_t column = 0; column < limit; ++column) {
      if (affine.mask) {
        bool any = false;
        for (int64_t r = row; r < row + rows; ++r) any |= used(r, column);
        if (!any) continue;
        panel_columns_.push_back(static_cast<int32_t>(affine.slots[column]));
      }
      ++panel.num_columns;
      for (int64_t r = row; r < row + kPanelRows; ++r)
        panel_weights_growing_.push_back(r < row + rows ? affine.weights[r * affine.num_columns + column] : T(0));
    }
    panels_.push_back(panel);
    panel_macs_ += int64_t{kPanelRows} * panel.num_columns;
    for (int64_t r = row; r < row + rows; ++r) {
      for (int64_t column = limit; column < affine.needed[r]; ++column) {
        if (!used(r, column)) continue;
        tail_columns_.push_back(static_cast<int32_t>(affine.slots[column]));
        tail_weights_.push_back(affine.weights[r * affine.num_columns + column]);
        ++tail_start_[static_cast<size_t>(affine.first_slot + r) + 1];
        ++panel_macs_;
      }
    }
  }
}

template <class T>
void PackedPlan<T>::pack_columns(const std::vector<AffineSource<T>>& affines) {
  constexpr int64_t lanes = kAlign / static_cast<int64_t>(sizeof(T));
  struct Found {
    int64_t slot, affine, column, first, last;  // rows [first, last)
  };
  std::vector<Found> found;
  for (size_t a = 0; a < affines.size(); ++a) {
    const auto& affine = affines[a];
    for (int64_t column = 0; column < affine.num_columns; ++column) {
      int64_t first = affine.num_rows, last = 0;
      for (int64_t r = 0; r < affine.num_rows; ++r) {
        const bool used = affine.mask ? affine.mask[r * affine.num_columns + column] != 0 : column < affine.needed[r];
        if (!used) continue;
        first = std::min(first, r);
        last = r + 1;
      }
      if (first < last) found.push_back({affine.slots[column], static_cast<int64_t>(a), column, first, last});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.slot < b.slot; });
  column_start_.assign(static_cast<size_t>(shape_.num_slots) + 1, 0);
  std::vector<T> weights;
  for (const Found& f : found) {
    const auto& affine = affines[static_cast<size_t>(f.affine)];
    const int64_t begin = (affine.first_slot + f.first) / lanes * lanes;
    const int64_t end = (affine.first_slot + f.last + lanes - 1) / lanes * lanes;
    columns_.push_back(
        {static_cast<int64_t>(weights.size()), static_cast<int32_t>(begin), static_cast<int32_t>(end - begin)});
    for (int64_t slot = begin; slot < end; ++slot) {
      const int64_t r = slot - affine.first_slot;
      weights.push_back(r >= f.first && r < f.last ? affine.weights[r * affine.num_columns + f.column] : T(0));
    }
    column_macs_ += end - begin;
    ++column_start_[static_cast<size_t>(f.slot) + 1];
  }
  for (size_t i = 1; i < column_start_.size(); ++i) column_start_[i] += column_start_[i - 1];
  column_weights_.assign(weights);
}

template <class T>
Plan<T> PackedPlan<T>::plan() const {
  Plan<T> p{};
  p.features = shape_.features;
  p.context_features = shape_.context_features;
  p.num_slots = shape_.num_slots;
  p.x_slot = shape_.x_slot;
  p.context_slot = shape_.context_slot;
  p.num_context_units = static_cast<int64_t>(context_units_.size());
  p.num_steps = static_cast<int64_t>(steps_.size());
  p.steps = steps_.data();
  p.variables = variables_.data();
  p.noise_steps = noise_steps_.data();
  p.param_slots = param_slots_.data();
  p.context_units = context_units_.data();
  p.affines = affines_.data();
  p.bias = bias_.data();
  p.panels = panels_.data();
  p.panel_weights = panel_weights_.data();
  p.panel_columns = panel_columns_.data();
  p.tail_start = tail_start_.data();
  p.tail_columns = tail_columns_.data();
  p.tail_weights = tail_weights_.data();
  p.column_start = column_start_.data();
  p.columns = columns_.data();
  p.column_weights = column_weights_.data();
  return p;
}

template <class T>
int64_t PackedPlan<T>::bytes() const {
  return static_cast<int64_t>((panel_weights_.size() + column_weights_.size() + tail_weights_.size()) * sizeof(T) +
                              (panel_columns_.size() + tail_columns_.size()) * sizeof(int32_t));
}

template class PackedPlan<float>;
template class PackedPlan<double>;

}  // namespace made_fast
