// Numbers that mean something on both sides of the language boundary: codes of functions and distributions, columns of
// tables. Each list is written once here and once in Python; `_core.tables()` hands these to
// tests/test_engine_tables.py, which holds the two against each other.
#pragma once

#include <cstdint>

namespace made_fast {

// The title and the names of an enumeration.
template <class Code>
struct Names;

#define MADE_FAST_VALUE_(name) name,
#define MADE_FAST_NAME_(name) #name,
#define MADE_FAST_ENUMERATION(Title, LIST)                                \
  enum class Title : int32_t { LIST(MADE_FAST_VALUE_) };                  \
  template <>                                                             \
  struct Names<Title> {                                                   \
    static constexpr const char* title = #Title;                          \
    static constexpr const char* list[] = {LIST(MADE_FAST_NAME_)};        \
    static constexpr int count = int(sizeof(list) / sizeof(const char*)); \
  };

// What a step does: Kind of made_fast/programs/schedule.py.
#define MADE_FAST_KINDS(X) X(affine) X(unary) X(add) X(multiply) X(draw)
MADE_FAST_ENUMERATION(Kind, MADE_FAST_KINDS)

// Elementwise functions: places in FUNCTIONS of made_fast/programs/functions.py. Each has its case in `call` of
// engine/functions-inl.h.
#define MADE_FAST_FUNCTIONS(X) \
  X(identity) X(relu) X(leaky_relu) X(elu) X(gelu) X(silu) X(softplus) X(tanh) X(sigmoid) X(exp) X(reciprocal) X(selu)
MADE_FAST_ENUMERATION(Function, MADE_FAST_FUNCTIONS)

// Distributions of one variable: Code of made_fast/outputs/codes.py. Each has its cases in engine/conditionals-inl.h.
#define MADE_FAST_CODES(X) \
  X(bernoulli) X(spin) X(categorical) X(normal) X(mixture_of_normals) X(mixture_of_logistics) X(own) X(point)
MADE_FAST_ENUMERATION(Code, MADE_FAST_CODES)

// What the network reads of a variable: Encoding of made_fast/outputs/codes.py.
#define MADE_FAST_ENCODINGS(X) X(number) X(one_hot) X(embedding)
MADE_FAST_ENUMERATION(Encoding, MADE_FAST_ENCODINGS)

// How a call ended: Status of made_fast/backends/cpp/engine.py.
#define MADE_FAST_STATUSES(X) X(ok) X(no_memory) X(not_a_number)
MADE_FAST_ENUMERATION(Status, MADE_FAST_STATUSES)

// What a network call makes of its parameters: Head of made_fast/backends/cpp/networks.py.
#define MADE_FAST_HEADS(X) \
  X(parameters) X(affine) X(flow) X(bernoulli) X(normal) X(spin) X(categorical) X(softplus_scale) X(softclip_scale)
MADE_FAST_ENUMERATION(Head, MADE_FAST_HEADS)

// Columns of the operations of a network: NetworkColumn of made_fast/backends/cpp/networks.py.
#define MADE_FAST_NETWORK_COLUMNS(X) X(kind) X(left) X(right) X(function) X(width) X(bias)
MADE_FAST_ENUMERATION(NetworkColumn, MADE_FAST_NETWORK_COLUMNS)

// Columns of Schedule.steps: StepColumn of made_fast/programs/schedule.py.
#define MADE_FAST_STEP_COLUMNS(X) X(kind) X(first) X(count) X(left) X(right) X(function)
MADE_FAST_ENUMERATION(StepColumn, MADE_FAST_STEP_COLUMNS)

// Columns of the table of variables: VariableColumn of made_fast/backends/cpp/arrays.py.
#define MADE_FAST_VARIABLE_COLUMNS(X) X(number) X(noise_step) X(param_slot) X(x_slot) X(conditional) X(support) X(table)
MADE_FAST_ENUMERATION(VariableColumn, MADE_FAST_VARIABLE_COLUMNS)

// Columns of Sums.reaches: SumColumn of made_fast/requests/sums.py.
#define MADE_FAST_SUM_COLUMNS(X) X(sum) X(first) X(low) X(count)
MADE_FAST_ENUMERATION(SumColumn, MADE_FAST_SUM_COLUMNS)

// Columns of MaskSide.groups: GroupColumn of made_fast/masks/plan.py.
#define MADE_FAST_GROUP_COLUMNS(X) \
  X(positions)                     \
  X(bits) X(size) X(partial_from) X(partial_to) X(first_from) X(first_to) X(second_from) X(second_to) X(num_rows)
MADE_FAST_ENUMERATION(GroupColumn, MADE_FAST_GROUP_COLUMNS)

}  // namespace made_fast
