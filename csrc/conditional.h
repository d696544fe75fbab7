// The distribution of a variable given its parameters, and what a request may ask of it: plain data, filled in by
// bindings.cpp, read by conditionals.h. The torch code of made_fast/conditionals.py is the definition.
#pragma once

#include <cstdint>

namespace made_fast {

// The numbers are those of Code and Encoding in made_fast/conditionals.py.
enum class Code : int32_t {
  bernoulli,
  spin,
  categorical,
  normal,
  mixture_of_normals,
  mixture_of_logistics,
  own,
  point
};
enum class Encoding : int32_t { number, one_hot, embedding };

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
  return conditional.size + 4 * conditional.components + own;
}

// How conditionals are changed while drawing.
template <class T>
struct Decoding {
  T inverse_temperature, temperature, root_temperature;
  bool greedy;
  int64_t top_k;  // 0: all
  T top_p;        // 1: all
  bool plain() const { return temperature == T(1) && !greedy && top_k == 0 && !(top_p < T(1)); }
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
  bool any() const { return observed != nullptr || constrained != nullptr; }
};

}  // namespace made_fast
