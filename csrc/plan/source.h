// A plan as Python hands it over: not yet packed, not yet checked.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/conditional.h"
#include "plan/plan.h"

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

}  // namespace made_fast
