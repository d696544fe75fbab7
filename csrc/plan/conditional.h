// The distribution of a variable given its parameters: plain data, read by engine/conditionals-inl.h. The torch code of
// made_fast/outputs is the definition.
#pragma once

#include <cstdint>

#include "plan/codes.h"

namespace made_fast {

template <class T>
struct Conditional {
  Code code;
  Encoding encoding;
  int32_t num_params, num_draws;
  int32_t size;        // number of values; 0: real numbers
  int32_t components;  // of a mixture
  int32_t units;       // input units
  T floor;             // least scale
  T scale, shift;      // of a number
  // x[r] from params[k * stride + r] and uniforms[i * stride + r], for r in [0, rows)
  void (*own)(const T* params, const float* uniforms, T* x, int64_t rows, int64_t stride);
};

// Vectors of T that a draw needs beside the parameters: running sums or log-probabilities of values, four numbers for
// each component, and for an own one its uniforms at the stride of a tile.
template <class T>
int64_t rooms_of(const Conditional<T>& conditional) {
  constexpr int64_t most_vectors = 3;
  const int64_t own = conditional.code == Code::own ? most_vectors * conditional.num_draws + 1 : 0;
  return conditional.size + int64_t{4} * conditional.components + own;
}

}  // namespace made_fast
