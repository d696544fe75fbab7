// Owns the arrays of a Plan. Weights are stored twice, for many rows by panels and for few rows by columns; zeros under
// the mask are stored in neither, but for the gaps that fill a panel or a vector.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "plan.h"

namespace made_fast {

// One affine operation as Python hands it over: rows in slot order, columns in order of time.
template <class T>
struct AffineSource {
  int64_t first_slot, num_rows, num_columns;
  const T* weights;       // (num_rows, num_columns), zeros under the mask
  const T* transposed;    // (num_columns, num_rows), the same
  const T* bias;          // (num_rows,)
  const int64_t* slots;   // (num_columns,) slot of each column
  const int64_t* needed;  // (num_rows,) leading columns that a row reads
  const int64_t* ready;   // (num_rows,) leading columns known at the level of the row
  const uint8_t* mask;    // (num_rows, num_columns), or null if a row reads exactly its first `needed`

  bool reads(int64_t row, int64_t column) const {
    return mask ? mask[row * num_columns + column] != 0 : column < needed[row];
  }
};

struct Shape {
  int64_t features, context_features, num_slots, x_slot, context_slot;
  bool in_place;
};

// All of a plan as Python hands it over.
template <class T>
struct PlanSource {
  Shape shape;
  std::vector<Step> steps;
  std::vector<Variable> variables;  // (D,) in the order of drawing
  std::vector<Conditional<T>> conditionals;
  std::vector<T> tables;
  std::vector<int32_t> context_units;
  std::vector<AffineSource<T>> affines;
  bool in_pairs;
};

template <class T>
class AlignedArray {
 public:
  // Room for `size` values, not yet written.
  T* allocate(size_t size) {
    size_ = size;
    const size_t bytes = (size * sizeof(T) + kAlign) / kAlign * kAlign;
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlign, bytes)));
    if (!data_) throw std::bad_alloc();
    return data_.get();
  }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

template <class T>
class PackedPlan {
 public:
  explicit PackedPlan(PlanSource<T> source);
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
