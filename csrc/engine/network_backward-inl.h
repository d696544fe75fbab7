// A whole network backward in one call, from the values that the forward call kept.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/functions-inl.h"
#include "engine/network-inl.h"
#include "engine/network_heads-inl.h"
#include "engine/simd-inl.h"
#include "plan/network.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// The sums over the lanes of a vector of vectors.
template <class T>
MADE_FAST_INLINE Vec<T> lane_sums(Vec<T> (&rows)[kLanes<T>]) {
  transpose<T, kLanes<T> / 2>(rows);
  Vec<T> total = rows[0];
  for (int i = 1; i < kLanes<T>; ++i) total = total + rows[i];
  return total;
}

// grad_weight += grad (rows, stride) times source, summed over the rows of the batch, where the mask keeps it.
template <class T>
void outer_products(const TileView& lists, int64_t rows, int64_t columns, const T* grad, const T* source,
                    int64_t stride, T* grad_weight) {
  constexpr int lanes = kLanes<T>;
  constexpr int at_once = lanes >= kUnitsAtOnce ? lanes / kUnitsAtOnce : 1, sums = at_once * kUnitsAtOnce;
  for (int64_t tile = 0; tile < lists.tiles; ++tile) {
    const int64_t unit = tile * kUnitsAtOnce;
    const T* of[kUnitsAtOnce];
    for (int r = 0; r < kUnitsAtOnce; ++r) of[r] = grad + (unit + r < rows ? unit + r : unit) * stride;
    const int64_t end = lists.starts[tile + 1];
    for (int64_t i = lists.starts[tile]; i < end; i += at_once) {
      Vec<T> sum[sums] = {};
      const T* from[at_once];
      for (int c = 0; c < at_once; ++c) from[c] = source + lists.columns[i + c < end ? i + c : i] * stride;
      for (int64_t row = 0; row < stride; row += lanes) {
        Vec<T> value[at_once];
        for (int c = 0; c < at_once; ++c) value[c] = load<T>(from[c] + row);
        for (int r = 0; r < kUnitsAtOnce; ++r) {
          const Vec<T> delta = load<T>(of[r] + row);
          for (int c = 0; c < at_once; ++c) sum[c * kUnitsAtOnce + r] = delta * value[c] + sum[c * kUnitsAtOnce + r];
        }
      }
      T totals[sums];
      for (int base = 0; base < sums; base += lanes) {
        Vec<T> group[lanes];
        for (int k = 0; k < lanes; ++k) group[k] = sum[base + k];
        const Vec<T> total = lane_sums<T>(group);
        std::memcpy(totals + base, &total, sizeof total);
      }
      for (int c = 0; c < at_once && i + c < end; ++c)
        for (int r = 0; r < kUnitsAtOnce; ++r)
          if (lists.bits[i + c] >> r & 1)
            grad_weight[(unit + r) * columns + lists.columns[i + c]] += totals[c * kUnitsAtOnce + r];
    }
  }
}

// The derivative of a function, from its argument x and its value y.
template <class T>
MADE_FAST_INLINE Vec<T> derivative(Function function, Vec<T> x, Vec<T> y) {
  const Vec<T> one = splat<T>(T(1));
  switch (function) {
    case Function::identity:
      return one;
    case Function::relu:
      return x > T(0) ? one : (x != x ? x : Vec<T>{});
    case Function::leaky_relu:
      return x > T(0) ? one : splat<T>(T(0.01));
    case Function::elu:
      return x > T(0) ? one : y + T(1);
    case Function::gelu: {
      Vec<T> e = x * T(0.70710678118654752440);
      for (int i = 0; i < kLanes<T>; ++i) e[i] = erf_scalar(e[i]);
      return T(0.5) * (e + T(1)) + x * T(0.39894228040143267794) * exp_<T>(T(-0.5) * x * x);
    }
    case Function::silu: {
      const Vec<T> s = sigmoid_<T>(x);
      return s * (T(1) + x * (T(1) - s));
    }
    case Function::softplus:
      return sigmoid_<T>(x);
    case Function::tanh:
      return T(1) - y * y;
    case Function::sigmoid:
      return y * (T(1) - y);
    case Function::exp:
      return y;
    case Function::reciprocal:
      return -y * y;
  }
  return splat<T>(__builtin_nanf(""));  // never: unknown functions are refused when the plan is made
}

// Adds to the gradients of a term's weight, and writes or adds that of its source.
template <class T>
void affine_backward(const NetworkTask<T>& task, const NetworkOp& op, int64_t stride, const T* own, T* const* values,
                     T* const* grads, bool* written) {
  for (int i = 0; i < op.num_terms; ++i) {
    const NetworkTerm& term = task.plan.terms[op.first_term + i];
    if (task.grad_weights[term.weight] != nullptr)
      outer_products<T>(term.forward, op.width, term.columns, own, values[term.source], stride,
                        task.grad_weights[term.weight]);
    if (term.source == 0 ? task.grad_x == nullptr : term.source == 1 && task.grad_context == nullptr) continue;
    const Summand<T> summand = {&term.backward, task.packed + term.backward.packed, own};
    products<T>(&summand, 1, term.columns, stride, nullptr, written[term.source], grads[term.source]);
    written[term.source] = true;
  }
  if (op.bias < 0 || task.grad_weights[op.bias] == nullptr) return;
  for (int64_t unit = 0; unit < op.width; ++unit) {
    Vec<T> sum{};
    for (int64_t row = 0; row < stride; row += kLanes<T>) sum = sum + load<T>(own + unit * stride + row);
    T total = 0;
    for (int i = 0; i < kLanes<T>; ++i) total += sum[i];
    task.grad_weights[op.bias][unit] += total;
  }
}

template <class T>
void pointwise_backward(const NetworkOp& op, int64_t stride, const T* own, const T* result, T* const* values,
                        T* const* grads, bool* written) {
  const int sources[2] = {op.left, op.right};
  for (int side = 0; side < (op.kind == Kind::unary ? 1 : 2); ++side) {
    T* to = grads[sources[side]];
    const bool more = written[sources[side]];
    const T* other = values[sources[1 - side]];
    for (int64_t i = 0; i < op.width * stride; i += kLanes<T>) {
      Vec<T> delta = load<T>(own + i);
      if (op.kind == Kind::unary)
        delta = delta * derivative<T>(op.function, load<T>(values[op.left] + i), load<T>(result + i));
      if (op.kind == Kind::multiply) delta = delta * load<T>(other + i);
      store<T>(to + i, more ? load<T>(to + i) + delta : delta);
    }
    written[sources[side]] = true;
  }
}

// A gradient from lanes to rows, zero where nothing reached it.
template <class T>
void hand_out(T* lanes, bool written, int64_t rows, int64_t units, int64_t stride, T* out) {
  if (!written) std::memset(lanes, 0, static_cast<size_t>(units * stride) * sizeof(T));
  lanes_to_rows<T>(lanes, rows, units, stride, out);
}

template <class T>
void zero_or_rows(const T* in, int64_t rows, int64_t units, int64_t stride, T* out) {
  if (in == nullptr) {
    std::memset(out, 0, static_cast<size_t>(units * stride) * sizeof(T));
  } else {
    rows_to_lanes<T>(in, rows, units, stride, out);
  }
}

template <class T>
void clear(T* numbers, int64_t count) {
  if (numbers != nullptr) std::memset(numbers, 0, static_cast<size_t>(count) * sizeof(T));
}

// What products are added to.
template <class T>
void clear_weight_gradients(const NetworkTask<T>& task) {
  const NetworkView& plan = task.plan;
  for (int v = 2; v < plan.num_values; ++v) {
    const NetworkOp& op = plan.ops[v - 2];
    if (op.bias >= 0) clear<T>(task.grad_weights[op.bias], op.width);
    for (int i = 0; i < op.num_terms; ++i) {
      const NetworkTerm& term = plan.terms[op.first_term + i];
      clear<T>(task.grad_weights[term.weight], static_cast<int64_t>(op.width) * term.columns);
    }
  }
}

template <class T>
Status network_backward(const NetworkTask<T>& task) {
  clear_weight_gradients<T>(task);
  const NetworkView& plan = task.plan;
  const int last = plan.num_values - 1;
  const int64_t features = plan.widths[0], context = plan.widths[1], width = plan.widths[last];
  for (int i = 0; i < plan.num_terms; ++i) {
    const NetworkTerm& term = plan.terms[i];
    if (term.source > 1 || (term.source == 0 ? task.grad_x : task.grad_context) != nullptr)
      pack_tiles<T>(term.backward, task.weights[term.weight], 1, term.columns, task.packed + term.backward.packed);
  }
  for (int64_t first = 0; first < task.batch; first += kBlockRows) {
    const int64_t rows = rows_of_block(task.batch, first), stride = stride_of<T>(rows);
    T *values[kMostValues], *grads[kMostValues];
    bool written[kMostValues] = {};
    split_block<T>(plan, task.values + first * plan.units, stride, values);
    T* total = split_block<T>(plan, task.room, stride, grads);
    if (task.head == Head::parameters) {
      rows_to_lanes<T>(task.grad_out + first * width, rows, width, stride, grads[last]);
    } else {
      zero_or_rows<T>(task.grad_total == nullptr ? nullptr : task.grad_total + first, rows, 1, stride, total);
      if (task.head == Head::affine)
        zero_or_rows<T>(task.grad_out == nullptr ? nullptr : task.grad_out + first * features, rows, features, stride,
                        total + stride);
      head_backward<T>(task.head, task.floor, features, stride, values[last], values[0], total + stride, total,
                       grads[last], grads[0]);
      written[0] = true;
    }
    written[last] = true;
    for (int v = last; v >= 2; --v) {
      const NetworkOp& op = plan.ops[v - 2];
      if (!written[v]) continue;
      if (op.kind == Kind::affine)
        affine_backward<T>(task, op, stride, grads[v], values, grads, written);
      else
        pointwise_backward<T>(op, stride, grads[v], values[v], values, grads, written);
    }
    if (task.grad_x != nullptr)
      hand_out<T>(grads[0], written[0], rows, features, stride, task.grad_x + first * features);
    if (task.grad_context != nullptr)
      hand_out<T>(grads[1], written[1], rows, context, stride, task.grad_context + first * context);
  }
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
