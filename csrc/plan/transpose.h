// Matrices with rows and columns exchanged.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace made_fast {

// to (columns, rows) from (rows, columns), one number at a time.
template <class T>
void transpose_part(const T* from, int64_t rows, int64_t columns, int64_t row_stride, T* to, int64_t to_stride) {
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * row_stride + c];
}

#if defined(__clang__) || __GNUC__ >= 12
typedef float Four __attribute__((vector_size(16)));

inline void transpose_four(const float* from, int64_t row_stride, float* to, int64_t to_stride) {
  Four a, b, c, d;
  std::memcpy(&a, from, sizeof a);
  std::memcpy(&b, from + row_stride, sizeof b);
  std::memcpy(&c, from + 2 * row_stride, sizeof c);
  std::memcpy(&d, from + 3 * row_stride, sizeof d);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
  std::memcpy(to, &a, sizeof a);
  std::memcpy(to + to_stride, &b, sizeof b);
  std::memcpy(to + 2 * to_stride, &c, sizeof c);
  std::memcpy(to + 3 * to_stride, &d, sizeof d);
}

inline void transpose_part(const float* from, int64_t rows, int64_t columns, int64_t row_stride, float* to,
                           int64_t to_stride) {
  const int64_t fours = rows / 4 * 4, across = columns / 4 * 4;
  for (int64_t r = 0; r < fours; r += 4)
    for (int64_t c = 0; c < across; c += 4)
      transpose_four(from + r * row_stride + c, row_stride, to + c * to_stride + r, to_stride);
  transpose_part<float>(from + fours * row_stride, rows - fours, columns, row_stride, to + fours, to_stride);
  transpose_part<float>(from + across, fours, columns - across, row_stride, to + across * to_stride, to_stride);
}
#endif

// to (columns, rows) from (rows, columns), by squares that stay in cache.
template <class T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  constexpr int64_t side = 32;
  for (int64_t row = 0; row < rows; row += side)
    for (int64_t column = 0; column < columns; column += side)
      transpose_part(from + row * columns + column, std::min(side, rows - row), std::min(side, columns - column),
                     columns, to + column * rows + row, rows);
}

}  // namespace made_fast
