// What is asked of one draw: rows, noise, context, conditions, decoding, and where the answer goes. Plain pointers to
// memory of the caller.
#pragma once

#include <cstdint>

namespace made_fast {

// How conditionals are changed while drawing.
template <class T>
struct Decoding {
  T inverse_temperature, temperature, root_temperature;
  bool greedy;
  int64_t top_k;  // 0: all
  T top_p;        // 1: all
  bool plain() const { return temperature == T(1) && !greedy && top_k == 0 && !(top_p < T(1)); }
};

constexpr int64_t kMostSums = 8;  // MOST_SUMS of made_fast/requests/sums.py

// Sums that integer variables are held to: Sums of made_fast/requests/sums.py.
struct Sums {
  const int64_t* pattern;  // (N,) which reaches a condition has; -1: nothing is held to a sum
  const int64_t* lacking;  // (N, count) what the variables that are drawn are to add up to
  const int64_t* reaches;  // (patterns, D, 4), the columns are SumColumn
  const uint8_t* bits;     // flags of totals that what is drawn later can have
  int64_t count;           // 0: there are none
};

// What rows are held to; row i of a request has condition i / rows_per_context. Pointers may be null.
template <class T>
struct Conditions {
  const T* given;              // (N, D), read where observed
  const uint8_t* observed;     // (N, D)
  const uint8_t* support;      // (N, support_size): for each variable a flag for each of its values
  const T* bounds;             // (N, D, 2)
  const uint8_t* constrained;  // (D,), null if no variable is
  int64_t support_size;
  Sums sums;
  bool any() const { return observed != nullptr || constrained != nullptr; }
};

template <class T>
struct Request {
  int64_t num_rows;
  uint64_t first_row;   // noise row of row 0
  const int64_t* rows;  // (num_rows,) the noise row of each row, or null: consecutive from first_row
  uint64_t seed;
  const T* context;          // (N, C) or null
  int64_t row_offset;        // row 0 of this piece within the whole request
  int64_t rows_per_context;  // row i has context (row_offset + i) / rows_per_context
  T* out;                    // (num_rows, D)
  T* log_prob;               // (num_rows,) or null
  T* log_weight;             // (num_rows,) or null
  Conditions<T> conditions;
  Decoding<T> decoding;
  int num_threads;
  int rows_at_once;  // 0: chosen; 1: the path for few rows; n: tiles of at most n rows

  bool plain() const { return !conditions.any() && decoding.plain() && log_weight == nullptr; }
  int64_t source(int64_t row) const {
    return rows_per_context == 1 ? row_offset + row : (row_offset + row) / rows_per_context;  // a division takes long
  }
  uint64_t noise_row(int64_t row) const {
    return rows == nullptr ? first_row + static_cast<uint64_t>(row) : static_cast<uint64_t>(rows[row]);
  }
};

}  // namespace made_fast
