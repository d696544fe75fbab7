// What the masked matmuls execute: which weights a mask keeps, in groups of rows that lie together once rows and
// columns are sorted (made_fast/masks/plan.py). Plain pointers; the owner is a MaskSide.
#pragma once

#include <cstdint>

#include "plan/codes.h"
#include "plan/plan.h"

namespace made_fast {

constexpr int kGroupRows = 2 * kPanelRows;  // rows that share a list of columns

// Up to 16 consecutive sorted rows, and a list of the columns that any of them reads.
struct MaskGroup {
  int64_t positions;   // where its columns start in MaskView::positions
  int64_t bits;        // where its words start in MaskView::bits
  int32_t size;        // columns of the list
  int32_t partial[2];  // [from, to): columns that some of the rows do not read; all read the others
  int32_t first_panel[2], second_panel[2];  // [from, to): the columns that the panel of 8 goes through
  int32_t num_rows;
};

struct MaskView {
  int64_t num_rows, num_columns, num_groups;
  const int32_t* rows;           // (num_rows,) sorted place -> row of the weight
  const int32_t* columns;        // (num_columns,) sorted place -> column of the weight
  const int32_t* column_places;  // the inverse of `columns`
  const MaskGroup* groups;
  const int32_t* longest_first;        // (num_groups,)
  const int32_t* positions;            // sorted places of columns
  const uint16_t* bits;                // for each partial column, which rows of the group read it
  bool natural_rows, natural_columns;  // whether the sorted order is the order in memory
  bool contiguous;                     // whether each list is a run of successive places
};

// out (batch, rows) = function(x (batch, columns) times the kept weights + bias)
template <class T>
struct MatmulTask {
  MaskView view;
  int64_t batch;
  const T* x;
  const T* weight;
  int64_t row_stride, column_stride;  // of the weight
  const T* bias;                      // or null
  Function function;
  T* out;
  int num_threads;
};

// out (rows, columns) = grad (batch, rows) transposed times x (batch, columns) where the mask keeps it, zero elsewhere
template <class T>
struct OuterTask {
  MaskView view;
  int64_t batch;
  const T* grad;
  const T* x;
  T* out;
  int num_threads;
};

}  // namespace made_fast
