// Owns the arrays of a Plan. Weights are stored twice, for many rows by panels and for few rows by columns; zeros under
// the mask are stored in neither, but for the gaps that fill a panel or a vector.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/aligned_array.h"
#include "plan/plan.h"
#include "plan/source.h"

namespace made_fast {

template <class T>
class PackedPlan {
 public:
  explicit PackedPlan(PlanSource<T> source);  // throws std::invalid_argument
  PackedPlan(const PackedPlan&) = delete;

  const Plan<T>& plan() const { return plan_; }
  int64_t panel_macs() const { return panel_macs_; }    // multiply-adds for one row in a tile, fill of panels included
  int64_t column_macs() const { return column_macs_; }  // the same for one row alone, nothing skipped
  int64_t bytes() const;

 private:
  struct ColumnSource {
    int64_t slot, affine, column, first, last;  // rows [first, last) read the column
  };

  void list_variables();
  int64_t ring_size() const;
  void plan_panels(const AffineSource<T>& affine);
  void fill_panels(const AffineSource<T>& affine, const AffineInfo& info, T* weights) const;
  void pack_pairs();
  static int64_t known_to(const AffineSource<T>& affine, int64_t row, int64_t rows);
  int64_t list_columns(const AffineSource<T>& affine, int64_t shared, int64_t row, int64_t rows, int64_t begin,
                       int64_t end, int32_t& count);
  void plan_tail(const AffineSource<T>& affine, int64_t row, int64_t from);
  void list_looked_up();
  int64_t units_of(int32_t place) const {
    const Variable& variable = source_.variables[static_cast<size_t>(place)];
    return source_.conditionals[static_cast<size_t>(variable.conditional)].units;
  }
  bool looked_up(int64_t slot) const { return slot >= source_.shape.num_slots; }
  void plan_lookups(const AffineSource<T>& affine, AffineInfo& info);
  void fill_lookups(const AffineSource<T>& affine, const AffineInfo& info, T* weights) const;
  void fill_plan();
  void pack_columns(const std::vector<AffineSource<T>>& affines);
  static std::vector<ColumnSource> find_columns(const std::vector<AffineSource<T>>& affines);

  PlanSource<T> source_;  // the arrays of its affines are gone
  Plan<T> plan_{};
  std::vector<int32_t> variables_, noise_steps_, param_slots_;
  std::vector<AffineInfo> affines_;
  std::vector<Panel> panels_;
  std::vector<int32_t> panel_columns_;
  std::vector<int64_t> tail_start_, column_start_;
  std::vector<int32_t> tail_columns_;
  std::vector<Column> columns_;
  std::vector<T> tail_weights_;
  std::vector<int32_t> place_of_;  // (units that are looked up,) which variable, in the order of drawing
  std::vector<Lookup> lookups_;
  std::vector<int32_t> num_lookups_;
  AlignedArray<T> bias_, panel_weights_, column_weights_, lookup_weights_;
  std::vector<Panel> pair_panels_;
  std::vector<uint32_t> pair_weights_;
  std::vector<int32_t> pair_columns_;
  int64_t panel_size_ = 0, lookup_size_ = 0, panel_macs_ = 0, column_macs_ = 0;
};

extern template class PackedPlan<float>;
extern template class PackedPlan<double>;

}  // namespace made_fast
