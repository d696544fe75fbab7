// What a network call makes of the parameters, and the way back through it.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/simd-inl.h"
#include "plan/codes.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
MADE_FAST_INLINE Vec<T> log_of(Vec<T> x) {
  return log_ratio<T>(x, splat<T>(T(1)));
}

// What a head makes of the parameters of all variables, in lanes: writes z and adds to the total. A flow has a standard
// normal density after the last network.
template <class T>
void head_forward(Head head, bool is_last, T floor, int64_t features, int64_t stride, const T* params, const T* x, T* z,
                  T* total) {
  const bool has_density = head == Head::normal || (head == Head::flow && is_last);
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    Vec<T> sum = load<T>(total + row);
    for (int64_t d = 0; d < features; ++d) {
      const Vec<T> value = load<T>(x + d * stride + row);
      if (head == Head::bernoulli) {
        const Vec<T> logit = load<T>(params + d * stride + row);
        sum = sum - softplus_<T>((T(1) - T(2) * value) * logit);
        continue;
      }
      const Vec<T> shift = load<T>(params + 2 * d * stride + row), raw = load<T>(params + (2 * d + 1) * stride + row);
      const Vec<T> scale = softplus_<T>(raw) + floor, at = (value - shift) / scale;
      sum = sum - log_of<T>(scale);
      if (head != Head::normal) store<T>(z + d * stride + row, at);
      if (has_density) sum = sum - (T(0.5) * at * at + T(0.91893853320467274178));
    }
    store<T>(total + row, sum);
  }
}

// Gradients of the parameters, and what x gets beside them, from those of z and the total; grad_x may be grad_z.
template <class T>
void head_backward(Head head, bool is_last, T floor, int64_t features, int64_t stride, const T* params, const T* x,
                   const T* grad_z, const T* grad_total, T* grad_params, T* grad_x) {
  const bool has_density = head == Head::normal || (head == Head::flow && is_last);
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    const Vec<T> outer = load<T>(grad_total + row);
    for (int64_t d = 0; d < features; ++d) {
      const Vec<T> value = load<T>(x + d * stride + row);
      if (head == Head::bernoulli) {
        const Vec<T> logit = load<T>(params + d * stride + row);
        // log sigmoid(t) with t = (2 x - 1) logit
        const Vec<T> sign = T(2) * value - T(1), slope = outer * sigmoid_<T>(-sign * logit);
        store<T>(grad_params + d * stride + row, slope * sign);
        store<T>(grad_x + d * stride + row, T(2) * slope * logit);
        continue;
      }
      const Vec<T> shift = load<T>(params + 2 * d * stride + row), raw = load<T>(params + (2 * d + 1) * stride + row);
      const Vec<T> scale = softplus_<T>(raw) + floor, at = (value - shift) / scale;
      const Vec<T> to_at = has_density ? -outer * at : load<T>(grad_z + d * stride + row);
      const Vec<T> to_value = to_at / scale;
      store<T>(grad_params + 2 * d * stride + row, -to_value);
      store<T>(grad_params + (2 * d + 1) * stride + row, -(to_at * at + outer) / scale * sigmoid_<T>(raw));
      store<T>(grad_x + d * stride + row, to_value);
    }
  }
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
