// What an engine executes: plain pointers and sizes, filled in by pack.cpp, read by the engines.
//
// Slots are rows of the activation table. The slots of one value lie together, sorted by level (see
// made_fast/programs/schedule.py).
#pragma once

#include <cstdint>

#include "plan/codes.h"
#include "plan/conditional.h"

namespace made_fast {

constexpr int kPanelRows = 8;  // units whose finished inputs are multiplied in one pass
constexpr int kAlign = 64;     // bytes; also the widest vector

struct Step {
  Kind kind;
  int32_t first, count, left, right;
  Function function;
};

// Four binary variables that follow one another in the order of drawing: their input is one of sixteen.
struct Quad {
  int32_t slots[4];  // of what is read of them
  int32_t last;      // place of the last
  bool spins;        // -1 or 1 is read, else 0 or 1
};

// Up to 8 consecutive rows of one affine operation, and what all of them can have when the first is due. Weights are
// stored column by column, 8 to a column.
struct Panel {
  int64_t weights;  // into panel_weights
  int64_t columns;  // into panel_columns: the slots to read
  int32_t num_columns;
  int32_t num_rows;
  // The leading quads of its operation, summed apart from all columns; 4 x 8 weights each.
  int64_t quad_weights;
  int32_t num_quads;
  // Columns behind the first quad that it has not: they follow on the others.
  int32_t num_late;
  int64_t late_weights, late_columns;
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
  // Its quads, and its number among the operations that have any, or -1.
  int32_t summed, num_quads;
  int64_t first_quad;  // into affine_quads
  bool spins;          // all of them
  bool shares;         // panels read leading columns of one list
  bool sums_apart() const { return open >= 0 || summed >= 0; }
};

// The weights by which a quad enters later slots of one operation, (4, count), as those of a column.
struct QuadColumns {
  int64_t weights;  // into column_weights
  int32_t first_slot, count;
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
  const int32_t* places;  // 0, 1, 2, ...: as many as a panel has columns or quads
  int64_t most_columns;   // of a list that panels share
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
  int64_t looked_slots;        // they, and those that have quads, end here

  const Quad* quads;
  int64_t num_quads, num_summed;  // all of them; affine operations that have some
  const int32_t* quad_at;         // (D,) the quad that a place completes, or -1
  const int32_t* affine_quads;    // numbers of the quads of all operations
  const int64_t* quad_start;      // (num_quads + 1,) into quad_columns
  const QuadColumns* quad_columns;

  const int64_t* column_start;  // (num_slots + units that are looked up + 1,) into columns
  const Column* columns;
  const T* column_weights;
};

}  // namespace made_fast
