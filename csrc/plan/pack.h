// A plan with its weights. These are stored twice, for many rows by panels and for few rows by columns; zeros under the
// mask are stored in neither, but for the gaps that fill a panel or a vector.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "plan/aligned_array.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/source.h"

namespace made_fast {

// The numbers of a packed plan, in memory that can be used again.
template <class T>
struct Weights {
  AlignedArray<T> bias, panels, lookups, columns, tails, tables;
  std::vector<Panel> pair_panels;
  std::vector<uint32_t> pairs;
  std::vector<int32_t> pair_columns;
};

// A layout, and the weights of a plan that is gone: the next one writes to memory that is in place already.
template <class T>
struct SharedLayout {
  explicit SharedLayout(PlanSource<T> source) : layout(std::move(source)) {}

  const Layout<T> layout;
  std::mutex lock;
  std::unique_ptr<Weights<T>> spare;
};

template <class T>
class PackedPlan {
 public:
  PackedPlan(PlanSource<T> source, const WeightSource<T>& weights);  // throws std::invalid_argument
  ~PackedPlan();
  PackedPlan(const PackedPlan&) = delete;

  // The same plan with other weights; null where one of them is not finite.
  std::unique_ptr<PackedPlan> repacked(const WeightSource<T>& weights, int num_threads) const;

  const Plan<T>& plan() const { return plan_; }  // for tiles
  const Plan<T>& plan_with_columns() const;      // for single rows too; they are made at first use
  const Layout<T>& layout() const { return shared_->layout; }
  int64_t bytes() const;
  // The numbers of all arrays of a WeightSource, one after another; zeros under masks, and of what reaches no
  // parameter.
  void unpack(T* to) const;

 private:
  explicit PackedPlan(std::shared_ptr<SharedLayout<T>> shared);
  void allocate_columns() const;
  template <bool checked>
  bool fill(const WeightSource<T>& from, int num_threads);
  bool is_finite(const Block& block, const WeightSource<T>& from) const;
  void fill_block(const Block& block, const WeightSource<T>& from, T* rows, std::vector<int64_t>& start);
  void gather(const Packing& packing, const Block& block, const WeightSource<T>& from, T* rows) const;
  void fill_panels(const AffineInfo& affine, const Block& block, const T* rows);
  void fill_lookups(const AffineInfo& affine, const Packing& packing, const Block& block, const T* rows,
                    std::vector<int64_t>& start);
  void fill_columns(const AffineInfo& affine, const Packing& packing) const;
  void pack_pairs();
  void point_to_weights();

  std::shared_ptr<SharedLayout<T>> shared_;
  std::unique_ptr<Weights<T>> weights_;
  mutable Plan<T> plan_;            // changed once, where its columns are made
  mutable std::once_flag columns_;  // set when they are filled
};

extern template class PackedPlan<float>;
extern template class PackedPlan<double>;

}  // namespace made_fast
