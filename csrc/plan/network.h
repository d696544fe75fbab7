// What the network engine executes: a program whose weights are handed over with each call.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "plan/codes.h"

namespace made_fast {

constexpr int kUnitsAtOnce = 4;   // units that are computed together
constexpr int kBlockRows = 64;    // rows of the batch whose values are held at once
constexpr int kMostValues = 128;  // of a network, x and the context included
constexpr int kMostTerms = 8;     // of one operation

// For each tile of 4 rows of a mask the columns that any of them reads, and which of the rows do.
struct TileView {
  int64_t tiles;
  const int64_t* starts;  // (tiles + 1,) in `columns`
  const int32_t* columns;
  const uint8_t* bits;
  int64_t packed;  // where its packed weights begin: four for each column
};

// One summand of an affine operation: a weight (rows, columns) times a value.
struct NetworkTerm {
  int32_t source, weight, columns;  // numbers of the value and of the weight among those handed over
  TileView forward, backward;       // of the mask, and of its transpose
};

// Makes value 2 + i; value 0 is x, 1 the context.
struct NetworkOp {
  Kind kind;  // affine, unary, add or multiply
  int32_t left, right;
  Function function;
  int32_t width;
  int32_t bias;  // its number among the weights handed over, or -1
  int32_t first_term, num_terms;
};

struct NetworkView {
  int32_t num_values, num_terms, num_weights;
  const int32_t* widths;  // (num_values,)
  const NetworkTerm* terms;
  const NetworkOp* ops;
  int64_t units;                            // the sum of all widths
  int64_t packed_forward, packed_backward;  // numbers of all packed weights
};

// One call. What is not wanted is null.
template <class T>
struct NetworkTask {
  NetworkView plan;
  Head head;
  T floor;  // of scales
  int64_t batch;
  const T* x;               // (B, D)
  const T* context;         // (B, C)
  const T* const* weights;  // (num_weights,)
  int num_threads;
  bool keep;  // whether values of all rows are kept for the way back, or those of one block a thread
  T* values;  // see network_values
  T* packed;  // room for packed weights
  T* room;    // see network_room
  T* out;     // (B, P); of an affine head z (B, D)
  T* total;   // (B,) log-density or log-determinant of a head
  const T* grad_out;
  const T* grad_total;
  T* grad_x;               // (B, D)
  T* grad_context;         // (B, C)
  T* const* grad_weights;  // (num_weights,), each of the shape of its weight
};

inline int64_t network_blocks(int64_t batch) { return (batch + kBlockRows - 1) / kBlockRows; }

// Numbers that `room` must have for each thread: gradients of all values of a block, and what a head is given.
inline int64_t network_room(const NetworkView& plan) { return (plan.units + plan.widths[0] + 1) * kBlockRows; }

// Numbers that `values` must have for so many blocks.
inline int64_t network_values(const NetworkView& plan, int64_t blocks) { return plan.units * blocks * kBlockRows; }

// A term as it is described: the mask is (rows, columns), row-major, one byte each.
struct NetworkTermSource {
  int32_t source, weight;
  int64_t rows, columns;
  const uint8_t* mask;
};

struct NetworkSource {
  int32_t features, context_features, num_weights;
  std::vector<NetworkOp> ops;  // terms are in the order of the operations
  std::vector<NetworkTermSource> terms;
};

// Owns what a view points to.
class Network {
 public:
  // Throws std::invalid_argument unless every number is in its range.
  explicit Network(const NetworkSource& source);
  const NetworkView& view() const { return view_; }

 private:
  struct Lists {
    std::vector<int64_t> starts;
    std::vector<int32_t> columns;
    std::vector<uint8_t> bits;
  };
  static Lists tiles_of(const NetworkTermSource& term, bool transposed);

  std::vector<int32_t> widths_;
  std::vector<NetworkOp> ops_;
  std::vector<NetworkTerm> terms_;
  std::vector<std::unique_ptr<Lists>> lists_;
  NetworkView view_{};
};

}  // namespace made_fast
