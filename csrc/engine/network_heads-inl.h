// What a network call makes of the parameters, and the way back through it.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/simd-inl.h"
#include "plan/codes.h"
#include "plan/network.h"

namespace made_fast {
namespace MADE_FAST_ISA {

template <class T>
MADE_FAST_INLINE Vec<T> log_of(Vec<T> x) {
  return log_ratio<T>(x, splat<T>(T(1)));
}

// Whether a head multiplies by its scale: z = x * scale + shift, else z = (x - shift) / scale.
inline bool multiplies(Head head) { return head == Head::softplus_scale || head == Head::softclip_scale; }

inline bool is_binary(Head head) { return head == Head::bernoulli || head == Head::spin; }

inline bool makes_z(Head head) { return head == Head::affine || multiplies(head); }

// The head of one network in a block, in lanes.
template <class T>
struct HeadBlock {
  Head head;
  bool has_density;             // standard normal, after the last network of a flow
  T floor, log_floor;           // of scales
  int64_t features, variables;  // columns of x, and how many of them have parameters: the others are passed on
  int64_t stride;
  const T *params, *x;
};

template <class T>
HeadBlock<T> head_of(const NetworkTask<T>& task, int number, int64_t stride, const T* params, const T* x) {
  const NetworkView& network = *task.networks[number];
  const Head head = task.head;
  const bool is_last = number == task.num_networks - 1;
  const T log_floor = head == Head::softclip_scale ? static_cast<T>(__builtin_log(task.floor)) : T(0);
  const int64_t features = network.widths[0], params_width = network.widths[network.num_values - 1];
  return {head,     head == Head::normal || (head == Head::flow && is_last), task.floor, log_floor,
          features, is_binary(head) ? params_width : params_width / 2,       stride,     params,
          x};
}

// A scale, its logarithm, and the slope of that by the raw parameter.
template <class T>
struct Scale {
  Vec<T> value, log, slope;
};

// exp(r / (1 + |r / log floor|)), within (floor, 1 / floor), or softplus(r) + floor.
template <class T>
MADE_FAST_INLINE Scale<T> scale_of(const HeadBlock<T>& block, Vec<T> raw) {
  if (block.head == Head::softclip_scale) {
    const Vec<T> clip = T(1) / (T(1) + absolute<T>(raw / block.log_floor)), log = raw * clip;
    return {exp_<T>(log), log, clip * clip};
  }
  const Vec<T> soft = raw > T(20) ? raw : softplus_<T>(raw), value = soft + block.floor;  // as torch does
  return {value, log_of<T>(value), (raw > T(20) ? splat<T>(T(1)) : sigmoid_<T>(raw)) / value};
}

// What a head makes of the parameters of all variables, in lanes: writes z, in places if they are given, and adds to
// the total.
template <class T>
void head_forward(const HeadBlock<T>& block, const int32_t* places, T* z, T* total) {
  const int64_t stride = block.stride;
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    Vec<T> sum = load<T>(total + row);
    for (int64_t d = 0; d < block.variables; ++d) {
      const Vec<T> value = load<T>(block.x + d * stride + row);
      if (is_binary(block.head)) {
        const Vec<T> logit = load<T>(block.params + d * stride + row);
        sum = sum - softplus_<T>((block.head == Head::spin ? -value : T(1) - T(2) * value) * logit);
        continue;
      }
      const Vec<T> first = load<T>(block.params + 2 * d * stride + row),
                   second = load<T>(block.params + (2 * d + 1) * stride + row);
      T* to = z + (places == nullptr ? d : places[d]) * stride + row;
      if (multiplies(block.head)) {
        const bool scale_first = block.head == Head::softplus_scale;
        const Scale<T> scale = scale_of<T>(block, scale_first ? first : second);
        sum = sum + scale.log;
        store<T>(to, value * scale.value + (scale_first ? second : first));
        continue;
      }
      const Vec<T> scale = softplus_<T>(second) + block.floor, at = (value - first) / scale;
      sum = sum - log_of<T>(scale);
      if (block.head != Head::normal) store<T>(to, at);
      if (block.has_density) sum = sum - (T(0.5) * at * at + T(0.91893853320467274178));
    }
    store<T>(total + row, sum);
  }
  if (!makes_z(block.head)) return;
  for (int64_t d = block.variables; d < block.features; ++d)
    std::memcpy(z + (places == nullptr ? d : places[d]) * stride, block.x + d * stride,
                static_cast<size_t>(stride) * sizeof(T));
}

// Gradients of the parameters, and what x gets beside them, from those of z and the total; grad_x may be grad_z.
template <class T>
void head_backward(const HeadBlock<T>& block, const T* grad_z, const T* grad_total, T* grad_params, T* grad_x) {
  const int64_t stride = block.stride;
  for (int64_t row = 0; row < stride; row += kLanes<T>) {
    const Vec<T> outer = load<T>(grad_total + row);
    for (int64_t d = 0; d < block.variables; ++d) {
      const Vec<T> value = load<T>(block.x + d * stride + row);
      if (is_binary(block.head)) {
        const T step = block.head == Head::spin ? T(1) : T(2);
        const Vec<T> logit = load<T>(block.params + d * stride + row);
        // log sigmoid(t) with t = x logit of spins, (2 x - 1) logit of bits
        const Vec<T> sign = step * value - (step - T(1)), slope = outer * sigmoid_<T>(-sign * logit);
        store<T>(grad_params + d * stride + row, slope * sign);
        store<T>(grad_x + d * stride + row, step * slope * logit);
        continue;
      }
      const Vec<T> first = load<T>(block.params + 2 * d * stride + row),
                   second = load<T>(block.params + (2 * d + 1) * stride + row);
      T *to_first = grad_params + 2 * d * stride + row, *to_second = to_first + stride;
      if (multiplies(block.head)) {
        const bool scale_first = block.head == Head::softplus_scale;
        const Scale<T> scale = scale_of<T>(block, scale_first ? first : second);
        const Vec<T> to_z = load<T>(grad_z + d * stride + row), to_value = to_z * scale.value;
        store<T>(scale_first ? to_second : to_first, to_z);
        store<T>(scale_first ? to_first : to_second, (to_value * value + outer) * scale.slope);
        store<T>(grad_x + d * stride + row, to_value);
        continue;
      }
      const Vec<T> scale = softplus_<T>(second) + block.floor, at = (value - first) / scale;
      const Vec<T> to_at = block.has_density ? -outer * at : load<T>(grad_z + d * stride + row);
      const Vec<T> to_value = to_at / scale;
      store<T>(to_first, -to_value);
      store<T>(to_second, -(to_at * at + outer) / scale * sigmoid_<T>(second));
      store<T>(grad_x + d * stride + row, to_value);
    }
  }
  if (makes_z(block.head) && grad_x != grad_z)
    std::memcpy(grad_x + block.variables * stride, grad_z + block.variables * stride,
                static_cast<size_t>((block.features - block.variables) * stride) * sizeof(T));
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
