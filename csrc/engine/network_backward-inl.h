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

// The way back through one network in one block: its room holds the gradients.
template <class T>
struct BackBlock {
  const NetworkView* network;
  Values<T> values;
  T *total, *grad_z, *in_order, *grad_context, *grads;
  int64_t rows, stride;
  // What a network gives x, the one before it gave z.
  MADE_FAST_INLINE T* grad(int v) const {
    return v == 0 ? grad_z : v == 1 ? grad_context : grads + network->grads[v] * stride;
  }
};

template <class T>
BackBlock<T> back_block(const NetworkTask<T>& task, const Place<T>& place, int64_t number, int64_t values, T* room) {
  const NetworkView& network = *place.network;
  BackBlock<T> block;
  block.network = &network;
  block.rows = rows_of_block(task.batch, number * kBlockRows);
  block.stride = stride_of<T>(block.rows);
  block.values = {&network, task.values + number * values, place.values, block.stride};
  block.total = room;
  block.grad_z = block.total + block.stride;
  block.in_order = block.grad_z + network.widths[0] * block.stride;
  block.grad_context = block.in_order + network.widths[0] * block.stride;
  block.grads = block.grad_context + network.widths[1] * block.stride;
  return block;
}

// out (vectors, stride, lanes) from in (units, stride): rows again, a vector of the columns after the other, zero
// beyond the last unit.
template <class T>
void lanes_to_columns(const T* in, int64_t units, int64_t stride, T* out) {
  constexpr int lanes = kLanes<T>;
  for (int64_t unit = 0; unit < units; unit += lanes)
    for (int64_t row = 0; row < stride; row += lanes) {
      Vec<T> square[lanes] = {};
      for (int i = 0; i < lanes && unit + i < units; ++i) square[i] = load<T>(in + (unit + i) * stride + row);
      transpose<T>(square);
      for (int i = 0; i < lanes; ++i) store<T>(out + unit * stride + (row + i) * lanes, square[i]);
    }
}

// The numbers that a mask keeps, one byte for each, and zero for the others, whatever they are.
template <class T>
MADE_FAST_INLINE Vec<T> kept_by(const uint8_t* mask, Vec<T> numbers) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  Bytes bytes;
  std::memcpy(&bytes, mask, sizeof bytes);
  return __builtin_convertvector(bytes, Int<T>) != 0 ? numbers : Vec<T>{};
}

// Writes or adds one row of the gradient of a weight, as far as the mask keeps it.
template <class T>
MADE_FAST_INLINE void hand_over(Vec<T> sum, Share share, const uint8_t* mask, int64_t count, bool first, T* out) {
  if (share == Share::none && !first) return;
  if (count >= kLanes<T>) {
    Vec<T> before{};
    if (!first) std::memcpy(&before, out, sizeof before);
    if (share == Share::some) sum = kept_by<T>(mask, sum);
    sum = share == Share::none ? Vec<T>{} : first ? sum : before + sum;
    std::memcpy(out, &sum, sizeof sum);
    return;
  }
  T numbers[kLanes<T>];
  std::memcpy(numbers, &sum, sizeof sum);
  for (int64_t i = 0; i < count; ++i) {
    const T kept = share != Share::none && mask[i] != 0 ? numbers[i] : T(0);
    out[i] = first ? kept : out[i] + kept;
  }
}

// The sums over the rows of a block of delta, four units in lanes, times kVecs vectors of columns.
template <class T, int kVecs>
MADE_FAST_INLINE void outer_products(const T* const (&delta)[kUnitsAtOnce], const T* const (&from)[kVecs], int64_t rows,
                                     Vec<T> (&sum)[kUnitsAtOnce][kVecs]) {
  for (int64_t row = 0; row < rows; ++row) {
    Vec<T> value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = load<T>(from[v] + row * kLanes<T>);
    for (int r = 0; r < kUnitsAtOnce; ++r) {
      const Vec<T> by = splat<T>(delta[r][row]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = by * value[v] + sum[r][v];
    }
  }
}

// As many columns as are looked at together.
constexpr int kVecsAtOnce = MADE_FAST_REGISTERS / (2 * kUnitsAtOnce);  // half of the registers hold sums
template <class T>
constexpr int64_t kColumnsAtOnce = kVecsAtOnce * kLanes<T>;

// What some blocks add to the gradient of a weight.
template <class T>
struct OuterProduct {
  const NetworkTerm& term;
  int value;  // which the term makes
  const BackBlock<T>* blocks;
  int64_t num_blocks;
  bool first;  // of all blocks: the gradient is written, zero where the mask is
  T* grad_weight;
  // The columns that are looked at, from the first of them on, of each block as lanes_to_columns has them.
  int64_t first_column;
  const T* columns;
};

template <class T, int kVecs>
MADE_FAST_INLINE void tile_gradient(const OuterProduct<T>& task, int64_t unit, int64_t column, const Share* shares) {
  constexpr int lanes = kLanes<T>;
  const NetworkTerm& term = task.term;
  int used = 0;
  for (int v = 0; v < kVecs; ++v) used += shares[(column + v * lanes) / kSegment] != Share::none;
  if (used == 0 && !task.first) return;
  if constexpr (kVecs > 2) {
    if (used < kVecs) {
      tile_gradient<T, kVecs / 2>(task, unit, column, shares);
      tile_gradient<T, kVecs / 2>(task, unit, column + kVecs / 2 * lanes, shares);
      return;
    }
  }
  Vec<T> sum[kUnitsAtOnce][kVecs] = {};
  for (int64_t b = 0; b < task.num_blocks && used > 0; ++b) {
    const BackBlock<T>& block = task.blocks[b];
    const T *from[kVecs], *delta[kUnitsAtOnce], *own = block.grad(task.value);
    const T* columns = task.columns + b * kColumnsAtOnce<T> * kBlockRows;
    for (int v = 0; v < kVecs; ++v) from[v] = columns + (column - task.first_column + v * lanes) * block.stride;
    for (int r = 0; r < kUnitsAtOnce; ++r) delta[r] = own + (unit + r < term.rows ? unit + r : unit) * block.stride;
    outer_products<T, kVecs>(delta, from, block.rows, sum);
  }
  for (int r = 0; r < kUnitsAtOnce && unit + r < term.rows; ++r)
    for (int v = 0; v < kVecs; ++v) {
      const int64_t at = column + v * lanes, place = (unit + r) * term.columns + at;
      hand_over<T>(sum[r][v], shares[at / kSegment], term.mask + place, term.columns - at, task.first,
                   task.grad_weight + place);
    }
}

// The gradient of kVecs vectors of columns.
template <class T, int kVecs>
void columns_gradient(const OuterProduct<T>& task, int64_t column) {
  const int64_t segments = (task.term.columns + kSegment - 1) / kSegment;
  const Share* shares = task.term.shares;
  for (int64_t unit = 0; unit < task.term.rows; unit += kUnitsAtOnce, shares += segments)
    tile_gradient<T, kVecs>(task, unit, column, shares);
}

// The gradient of kColumnsAtOnce columns, or of those that are left.
template <class T>
void weight_gradient(OuterProduct<T> task, int64_t column) {
  alignas(64) T columns[kBlocksSummed * kColumnsAtOnce<T> * kBlockRows];
  const int64_t left = task.term.columns - column, count = left < kColumnsAtOnce<T> ? left : kColumnsAtOnce<T>;
  for (int64_t b = 0; b < task.num_blocks; ++b) {
    const BackBlock<T>& block = task.blocks[b];
    lanes_to_columns<T>(block.values[task.term.source] + column * block.stride, count, block.stride,
                        columns + b * kColumnsAtOnce<T> * kBlockRows);
  }
  task.first_column = column;
  task.columns = columns;
  const int64_t vectors = (count + kLanes<T> - 1) / kLanes<T>;
  if (vectors == kVecsAtOnce) return columns_gradient<T, kVecsAtOnce>(task, column);
  for (int64_t v = 0; v < vectors; ++v) columns_gradient<T, 1>(task, column + v * kLanes<T>);
}

template <class T>
void bias_gradient(int64_t units, int value, const BackBlock<T>* blocks, int64_t count, bool first, T* grad_bias) {
  for (int64_t unit = 0; unit < units; ++unit) {
    Vec<T> sum{};
    for (int64_t b = 0; b < count; ++b) {
      const T* own = blocks[b].grad(value) + unit * blocks[b].stride;
      for (int64_t row = 0; row < blocks[b].stride; row += kLanes<T>) sum = sum + load<T>(own + row);
    }
    T total = 0;
    for (int i = 0; i < kLanes<T>; ++i) total += sum[i];
    grad_bias[unit] = first ? total : grad_bias[unit] + total;
  }
}

// The derivative of a function, from its argument x and its value y; x may be y, but for those that plan/network.cpp
// names.
template <class T>
MADE_FAST_INLINE Vec<T> derivative(Function function, Vec<T> x, Vec<T> y) {
  const Vec<T> one = splat<T>(T(1));
  switch (function) {
    case Function::identity:
      return one;
    case Function::relu:
      return y > T(0) ? one : (y != y ? y : Vec<T>{});
    case Function::leaky_relu:
      return y > T(0) ? one : splat<T>(T(0.01));
    case Function::elu:
      return y > T(0) ? one : y + T(1);
    case Function::selu:
      return y > T(0) ? splat<T>(T(kSeluScale)) : y + T(kSeluScale * kSeluAlpha);
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

// Writes or adds the gradients of what a sum reads.
template <class T>
void affine_backward(const Place<T>& place, const NetworkOp& op, const T* own, const BackBlock<T>& block,
                     const bool (&wanted)[2], bool* written) {
  for (int i = 0; i < op.num_terms; ++i) {
    const NetworkTerm& term = place.network->terms[op.first_term + i];
    if (term.source < 2 && !wanted[term.source]) continue;
    const Summand<T> summand = {
        &term.backward, place.weights[term.weight], {1, term.columns}, place.packed + term.backward.packed, own};
    T* to = block.grad(term.source);
    if (lie_far_apart<T>(term.columns, block.stride))
      products_of_far<T>(summand, term.columns, block.stride, written[term.source], to);
    else
      products<T>(&summand, 1, term.columns, block.stride, nullptr, written[term.source], to);
    written[term.source] = true;
  }
}

template <class T>
void pointwise_backward(const NetworkOp& op, int v, const BackBlock<T>& block, bool* written) {
  const int sources[2] = {op.left, op.right};
  const T *own = block.grad(v), *result = block.values[v];
  for (int side = 0; side < (op.kind == Kind::unary ? 1 : 2); ++side) {
    T* to = block.grad(sources[side]);
    const bool more = written[sources[side]];
    const T *argument = block.values[op.left], *other = block.values[sources[1 - side]];
    for (int64_t i = 0; i < op.width * block.stride; i += kLanes<T>) {
      Vec<T> delta = load<T>(own + i);
      if (op.kind == Kind::unary)
        delta = delta * derivative<T>(op.function, load<T>(argument + i), load<T>(result + i));
      if (op.kind == Kind::multiply) delta = delta * load<T>(other + i);
      store<T>(to + i, more ? load<T>(to + i) + delta : delta);
    }
    written[sources[side]] = true;
  }
}

template <class T>
void zero_or_rows(const T* in, int64_t rows, int64_t units, int64_t stride, T* out) {
  if (in == nullptr) {
    std::memset(out, 0, static_cast<size_t>(units * stride) * sizeof(T));
  } else {
    rows_to_lanes<T>(in, rows, units, stride, out);
  }
}

// What the last network of a call is given, in lanes.
template <class T>
void take_gradients(const NetworkTask<T>& task, const NetworkView& network, int64_t first, const BackBlock<T>& block) {
  const int64_t features = network.widths[0], context = network.widths[1];
  const bool has_z = makes_z(task.head) && task.grad_out != nullptr;
  zero_or_rows<T>(task.grad_total == nullptr ? nullptr : task.grad_total + first, block.rows, 1, block.stride,
                  block.total);
  zero_or_rows<T>(has_z ? task.grad_out + first * features : nullptr, block.rows, features, block.stride, block.grad_z);
  if (task.grad_context != nullptr)
    std::memset(block.grad_context, 0, static_cast<size_t>(context * block.stride) * sizeof(T));
}

// The gradient of z in the order of its network, from that of x of the next one.
template <class T>
const T* grad_in_order(const int32_t* places, int64_t features, const BackBlock<T>& block) {
  if (places == nullptr) return block.grad_z;
  for (int64_t d = 0; d < features; ++d)
    std::memcpy(block.in_order + d * block.stride, block.grad_z + places[d] * block.stride,
                static_cast<size_t>(block.stride) * sizeof(T));
  return block.in_order;
}

// Gradients of everything in one block but the weights.
template <class T>
void backward_block(const NetworkTask<T>& task, const Place<T>* places, int number, int64_t first,
                    const BackBlock<T>& block) {
  const Place<T>& place = places[number];
  const NetworkView& network = *place.network;
  const bool is_last = number == task.num_networks - 1;
  const int last = network.num_values - 1;
  const int64_t features = network.widths[0], context = network.widths[1], width = network.widths[last];
  const bool wanted[2] = {number > 0 || task.grad_x != nullptr, task.grad_context != nullptr};
  if (is_last) take_gradients<T>(task, network, first, block);
  bool written[kMostValues] = {};
  written[0] = written[1] = written[last] = true;  // what has the gradients of z, and zeros
  if (task.head == Head::parameters)
    rows_to_lanes<T>(task.grad_out + first * width, block.rows, width, block.stride, block.grad(last));
  else if (task.head == Head::categorical)
    categories_backward<T>(network.categories, network.num_categorical, block.stride, block.values[last],
                           block.values[0], block.total, block.grad(last), block.grad_z);
  else
    head_backward<T>(head_of<T>(task, number, block.stride, block.values[last], block.values[0]),
                     grad_in_order<T>(task.places[number], features, block), block.total, block.grad(last),
                     block.grad_z);
  for (int v = last; v >= 2; --v) {
    const NetworkOp& op = network.ops[v - 2];
    if (!written[v]) continue;
    if (op.kind == Kind::affine)
      affine_backward<T>(place, op, block.grad(v), block, wanted, written);
    else
      pointwise_backward<T>(op, v, block, written);
  }
  if (number > 0) return;
  if (task.grad_x != nullptr)
    lanes_to_rows<T>(block.grad_z, block.rows, features, block.stride, task.grad_x + first * features);
  if (task.grad_context != nullptr)
    lanes_to_rows<T>(block.grad_context, block.rows, context, block.stride, task.grad_context + first * context);
}

// Adds what blocks give the weights of a network, in their order, whichever thread does it.
template <class T>
void weights_backward(const Place<T>& place, const BackBlock<T>* blocks, int64_t count, bool first) {
  const NetworkView& network = *place.network;
  for (int v = 2; v < network.num_values; ++v) {
    const NetworkOp& op = network.ops[v - 2];
    for (int i = 0; i < op.num_terms; ++i) {
      const NetworkTerm& term = network.terms[op.first_term + i];
      T* to = place.grad_weights[term.weight];
      if (to == nullptr) continue;
      const OuterProduct<T> task = {term, v, blocks, count, first, to, 0, nullptr};
#pragma omp for schedule(static) nowait
      for (int64_t column = 0; column < term.columns; column += kColumnsAtOnce<T>) weight_gradient<T>(task, column);
    }
    if (op.bias < 0 || place.grad_weights[op.bias] == nullptr) continue;
#pragma omp single nowait
    bias_gradient<T>(op.width, v, blocks, count, first, place.grad_weights[op.bias]);
  }
}

template <class T>
void pack_backward(const NetworkTask<T>& task, const Place<T>* places) {
  for (int k = 0; k < task.num_networks; ++k)
    for (int i = 0; i < places[k].network->num_terms; ++i) {
      const NetworkTerm& term = places[k].network->terms[i];
      if (term.source > 1 || (term.source == 0 ? k > 0 || task.grad_x != nullptr : task.grad_context != nullptr))
        pack_tiles<T>(term.backward, places[k].weights[term.weight], {1, term.columns},
                      places[k].packed + term.backward.packed);
    }
}

// Threads take blocks, then each some of the weights.
template <class T>
Status network_backward(const NetworkTask<T>& task) {
  Place<T> places[kMostNetworks] = {};
  places_of<T>(task, &NetworkView::packed_backward, places);
  pack_backward<T>(task, places);
  const int64_t num_blocks = network_blocks(task.batch), values = network_values(task), room = network_room(task);
#pragma omp parallel num_threads(task.num_threads) if (task.num_threads > 1)
  for (int64_t base = 0; base < num_blocks; base += task.blocks_at_once)
    for (int k = task.num_networks - 1; k >= 0; --k) {
      const int64_t count = num_blocks - base < task.blocks_at_once ? num_blocks - base : task.blocks_at_once;
      BackBlock<T> blocks[kMostBlocksAtOnce];
      for (int64_t b = 0; b < count; ++b)
        blocks[b] = back_block<T>(task, places[k], base + b, values, task.room + b * room);
#pragma omp for schedule(static, 1)
      for (int64_t b = 0; b < count; ++b) backward_block<T>(task, places, k, (base + b) * kBlockRows, blocks[b]);
      for (int64_t b = 0; b < count; b += kBlocksSummed) {
        weights_backward<T>(places[k], blocks + b, count - b < kBlocksSummed ? count - b : kBlocksSummed,
                            base + b == 0);
#pragma omp barrier
      }
    }
  return Status::ok;
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
