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
      if (head == Head::bernoulli || head == Head::spin) {
        const Vec<T> logit = load<T>(params + d * stride + row);
        sum = sum - softplus_<T>((head == Head::spin ? -value : T(1) - T(2) * value) * logit);
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
      if (head == Head::bernoulli || head == Head::spin) {
        const T step = head == Head::spin ? T(1) : T(2);
        const Vec<T> logit = load<T>(params + d * stride + row);
        // log sigmoid(t) with t = x logit of spins, (2 x - 1) logit of bits
        const Vec<T> sign = step * value - (step - T(1)), slope = outer * sigmoid_<T>(-sign * logit);
        store<T>(grad_params + d * stride + row, slope * sign);
        store<T>(grad_x + d * stride + row, step * slope * logit);
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

// The greatest logit of a variable with so many categories, and the sum of exp of what each is above it.
template <class T>
MADE_FAST_INLINE void sum_of_categories(const T* logits, int32_t count, int64_t stride, Vec<T>& most, Vec<T>& sum) {
  most = load<T>(logits), sum = splat<T>(T(0));
  for (int32_t k = 1; k < count; ++k) {
    const Vec<T> logit = load<T>(logits + k * stride);
    most = logit > most ? logit : most;
  }
  for (int32_t k = 0; k < count; ++k) sum = sum + exp_<T>(load<T>(logits + k * stride) - most);
}

// The log-probability of one-hot x is the sum over its units of x (logit - log of the sum of exp).
template <class T>
void categories_forward(const int32_t* categories, int32_t variables, int64_t stride, const T* params, const T* x,
                        T* total) {
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    Vec<T> found = load<T>(total + row);
    const T *logits = params + row, *units = x + row;
    for (int32_t d = 0; d < variables; ++d) {
      Vec<T> most, sum, chosen = splat<T>(T(0));
      sum_of_categories<T>(logits, categories[d], stride, most, sum);
      const Vec<T> log_sum = log_of<T>(sum);
      for (int32_t k = 0; k < categories[d]; ++k, logits += stride, units += stride) {
        const Vec<T> unit = load<T>(units);
        chosen = unit == T(0) ? chosen : chosen + unit * ((load<T>(logits) - most) - log_sum);
      }
      found = found + chosen;
    }
    store<T>(total + row, found);
  }
}

template <class T>
void categories_backward(const int32_t* categories, int32_t variables, int64_t stride, const T* params, const T* x,
                         const T* grad_total, T* grad_params, T* grad_x) {
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    const Vec<T> outer = load<T>(grad_total + row);
    int64_t at = row;
    for (int32_t d = 0; d < variables; ++d) {
      Vec<T> most, sum, units = splat<T>(T(0));
      sum_of_categories<T>(params + at, categories[d], stride, most, sum);
      const Vec<T> log_sum = log_of<T>(sum);
      for (int32_t k = 0; k < categories[d]; ++k) units = units + load<T>(x + at + k * stride);
      for (int32_t k = 0; k < categories[d]; ++k, at += stride) {
        const Vec<T> above = load<T>(params + at) - most;
        store<T>(grad_params + at, outer * (load<T>(x + at) - units * (exp_<T>(above) / sum)));
        store<T>(grad_x + at, outer * (above - log_sum));
      }
    }
  }
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
