// What an engine executes: plain pointers and sizes, filled in by pack.cpp, read by engine.cpp.
//
// Slots are rows of the activation table. The slots of one value lie together, sorted by level (see
// made_fast/schedule.py).
#pragma once

#include <cstdint>

#include "conditional.h"

namespace made_fast {

constexpr int kPanelRows = 8;  // units whose finished inputs are multiplied in one pass
constexpr int kAlign = 64;     // bytes; also the widest vector

enum class Kind : int32_t { affine, unary, add, multiply, draw };

// The codes are positions in FUNCTIONS of made_fast/program.py.
enum class Function : int32_t { identity, relu, leaky_relu, elu, gelu, silu, softplus, tanh, sigmoid, exp, reciprocal };

struct Step {
  Kind kind;
  int32_t first, count, left, right;
  Function function;
};

// Up to 8 consecutive rows of one affine operation, and what all of them can have when the first is due. Weights are
// stored column by column, 8 to a column.
struct Panel {
  int64_t weights;  // into panel_weights
  int64_t columns;  // into panel_columns: the slots to read
  int32_t num_columns;
  int32_t num_rows;
  // What becomes known between its first and its fifth unit, for the last four rows; 4 weights to a column.
  int64_t half_weights, half_columns;
  int32_t num_half_columns;
  int64_t lookups, lookup_weights;  // where the one-hot variables that it reads start in either
  int32_t num_lookups;
};

// A one-hot variable as a panel reads it: for each category the weights of 8 units.
struct Lookup {
  int32_t place;    // in the order of drawing
  int64_t weights;  // (size, 8), from where those of the panel start
};

// The weights by which one slot enters later slots; starts and ends on a vector, zeros fill the gaps.
struct Column {
  int64_t weights;  // into column_weights
  int32_t first_slot, count;
};

struct AffineInfo {
  int32_t first_slot, first_panel, num_rows;
  int32_t open;  // its number among the operations that look up, or -1
};

// One variable that is drawn.
struct Variable {
  int32_t number, noise_step, param_slot;
  int32_t x_slot;       // from num_slots on: it is looked up; its units have columns, but no slots
  int32_t conditional;  // into conditionals
  int64_t support;      // where its flags start in a row of Conditions::support
  int64_t table;        // where its embedding starts in tables
};

template <class T>
struct Plan {
  int64_t features, context_features, num_slots, x_slot, context_slot, num_context_units, num_steps;
  int64_t macs;  // multiply-adds for one row
  const Step* steps;
  bool sorted;    // variables are drawn in the order of their numbers
  bool in_place;  // every variable has one parameter and one input unit and is drawn over its parameter
  bool plain;     // and all are Bernoulli
  const int32_t *variables, *noise_steps, *param_slots;  // (D,) in the order of drawing
  const Variable* drawn;                                 // the same and more
  const Conditional<T>* conditionals;
  const T* tables;                              // of embeddings
  int64_t most_params, most_draws, most_rooms;  // over all conditionals; see rooms_of in conditional.h
  // Parameters are the last slots. In a tile they share `ring` rows, a multiple of 8, one after the other, unless they
  // are drawn over.
  int64_t first_param, ring;
  const int32_t* context_units;
  const AffineInfo* affines;
  int64_t num_affines;
  const T* bias;  // (num_slots,), what each slot starts from

  const Panel* panels;
  const T* panel_weights;
  const int32_t* panel_columns;
  const Panel*
      pair_panels;  // the same panels in bf16, two columns in one word: the even slot of a pair in the low half
  const uint32_t* pair_weights;  // null unless packed
  const int32_t* pair_columns;   // slot / 2
  const int64_t* tail_start;     // (num_slots + 1,): inputs of a unit that become known after its panel was multiplied
  const int32_t* tail_columns;
  const T* tail_weights;
  const Lookup* lookups;
  const T* lookup_weights;
  const int32_t* num_lookups;  // (num_slots,) how many leading ones of its panel a unit needs
  int64_t num_open;            // affine operations that look up
  int64_t looked_slots;        // they end here

  const int64_t* column_start;  // (num_slots + units that are looked up + 1,) into columns
  const Column* columns;
  const T* column_weights;
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
  int64_t source(int64_t row) const { return (row_offset + row) / rows_per_context; }
  uint64_t noise_row(int64_t row) const {
    return rows == nullptr ? first_row + static_cast<uint64_t>(row) : static_cast<uint64_t>(rows[row]);
  }
};

enum class Status : int { ok, no_memory, not_a_number };

template <class T>
struct MatmulTask;
template <class T>
struct OuterTask;

struct Engine {
  const char* name;
  double (*fma_rate_f32)(int num_threads, int64_t repeats);  // multiply-adds a second, from registers
  double (*fma_rate_f64)(int num_threads, int64_t repeats);
  int64_t (*scratch_f32)(const Plan<float>&, int64_t num_rows, int num_threads, int rows_at_once);
  int64_t (*scratch_f64)(const Plan<double>&, int64_t num_rows, int num_threads, int rows_at_once);
  Status (*draw_f32)(const Plan<float>&, const Request<float>&);
  Status (*draw_f64)(const Plan<double>&, const Request<double>&);
  Status (*draw_bf16)(const Plan<float>&, const Request<float>&);  // null without the instruction
  Status (*masked_matmul_f32)(const MatmulTask<float>&);
  Status (*masked_matmul_f64)(const MatmulTask<double>&);
  Status (*masked_outer_f32)(const OuterTask<float>&);
  Status (*masked_outer_f64)(const OuterTask<double>&);
};

}  // namespace made_fast
