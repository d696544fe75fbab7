// A plan as Python hands it over: not yet packed, not yet checked.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/conditional.h"
#include "plan/plan.h"

namespace made_fast {

// One affine operation without its weights, as Python hands it over: rows in slot order, columns in order of time.
struct AffineSource {
  int64_t first_slot, num_rows, num_columns;
  int64_t height;               // rows of the weights
  std::vector<int64_t> widths;  // columns of the weights of each term
  const int64_t* rows;          // (num_rows,) row of the weights
  const int64_t* columns;       // (num_columns,) column of the weights of all terms side by side
  const int64_t* slots;         // (num_columns,) slot of each column
  const int64_t* needed;        // (num_rows,) leading columns that a row reads
  const int64_t* ready;         // (num_rows,) leading columns known at the level of the row
  const uint8_t* mask;          // (num_rows, num_columns), or null if a row reads exactly its first `needed`

  bool reads(int64_t row, int64_t column) const {
    return mask ? mask[row * num_columns + column] != 0 : column < needed[row];
  }
};

struct Shape {
  int64_t features, context_features, num_slots, x_slot, context_slot;
  bool in_place;
};

// All of a plan as Python hands it over, but its weights.
template <class T>
struct PlanSource {
  Shape shape;
  std::vector<Step> steps;
  std::vector<Variable> variables;  // (D,) in the order of drawing
  std::vector<Conditional<T>> conditionals;
  int64_t table_size;  // of all embeddings
  std::vector<int32_t> context_units;
  std::vector<AffineSource> affines;
  bool in_pairs;
  int64_t least_quads;  // an operation that reads fewer has none; see layout_quads.cpp
};

// The weights of a plan where Python has them. What lies under a mask is not looked at.
template <class T>
struct WeightSource {
  // For each affine operation the weights (height, width) of each term, and a bias (height,), which may be null; then
  // the tables, null if there are none.
  std::vector<const T*> arrays;
};

}  // namespace made_fast
