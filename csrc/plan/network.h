// What the network engine executes: programs one after another whose weights are handed over with each call.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "plan/codes.h"

namespace made_fast {

constexpr int kUnitsAtOnce = 4;    // units that are computed together: a tile
constexpr int kSegment = 16;       // columns of a weight whose gradients are looked at together; of no vector fewer
constexpr int kBlockRows = 64;     // rows of the batch whose values are held at once
constexpr int kMostValues = 128;   // of a network, x and the context included
constexpr int kMostTerms = 8;      // of one operation
constexpr int kMostNetworks = 64;  // of one call
constexpr int kBlocksSummed = 4;   // whose gradients of weights are summed before they are written
constexpr int kMostBlocksAtOnce = 64;

// Columns for each tile of a mask, one tile after the other.
struct ColumnView {
  const int64_t* starts;  // (tiles + 1,)
  const int32_t* columns;
};

// For each tile of 4 rows of a mask the columns that all of them read, and those that only some do.
struct TileView {
  int64_t tiles;
  ColumnView all, some;
  const uint8_t* bits;  // which of the rows read a column of `some`
  int64_t packed;       // where the packed weights of `some` begin: four for each column
};

// What a mask has of a tile and a segment.
enum class Share : uint8_t { none, some, all };

// One summand of an affine operation: a weight (rows, columns) times a value.
struct NetworkTerm {
  int32_t source, weight, rows, columns;  // numbers of the value and of the weight among those handed over
  TileView forward, backward;             // of the mask, and of its transpose
  const uint8_t* mask;                    // (rows, columns)
  const Share* shares;                    // (tiles, segments)
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

// Places are in units of one block, which has so many numbers each as it has rows.
struct NetworkView {
  int32_t num_values, num_terms, num_weights;
  const int32_t* widths;  // (num_values,)
  const NetworkTerm* terms;
  const NetworkOp* ops;
  const int64_t* values;  // (num_values,) places of the values; functions are computed in place where they can be
  const int64_t* grads;   // (num_values,) places of their gradients
  int64_t value_units, grad_units;          // of all places
  int64_t packed_forward, packed_backward;  // numbers of all packed weights
  int64_t macs;                             // multiply-adds of a row
  const int32_t*
      categories;  // (num_categorical,) how many units of x, one of them 1, and of parameters each variable has
  int32_t num_categorical;
};

// One call of networks of the same D and C one after another. What is not wanted is null.
template <class T>
struct NetworkTask {
  const NetworkView* const* networks;  // all but one alone have a head that makes z, which the next one reads
  int num_networks;
  Head head;
  T floor;                       // of scales
  const int32_t* const* places;  // for each network, where in x of the next one its z is; null: in the same order
  int64_t batch;
  const T* x;                       // (B, D)
  const T* context;                 // (B, C)
  const T* const* weights;          // those of all networks
  int num_threads, blocks_at_once;  // of the way back: all their gradients are held
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
  T* const* grad_weights;  // as the weights, each of the shape of its weight
};

inline int64_t network_blocks(int64_t batch) { return (batch + kBlockRows - 1) / kBlockRows; }

// Numbers that `values` must have for one block.
template <class T>
int64_t network_values(const NetworkTask<T>& task) {
  int64_t units = 0;
  for (int k = 0; k < task.num_networks; ++k) units += task.networks[k]->value_units;
  return units * kBlockRows;
}

// Numbers that `room` must have for each thread, or on the way back for each block at once: the gradients of one
// network and of x (in both orders), the context and a total.
template <class T>
int64_t network_room(const NetworkTask<T>& task) {
  int64_t most = 0;
  for (int k = 0; k < task.num_networks; ++k) {
    const int64_t units = task.networks[k]->grad_units;
    if (units > most) most = units;
  }
  return (most + 2 * task.networks[0]->widths[0] + task.networks[0]->widths[1] + 1) * kBlockRows;
}

// Numbers that `packed` must have, whichever way.
template <class T>
int64_t network_packed(const NetworkTask<T>& task) {
  int64_t forward = 0, backward = 0;
  for (int k = 0; k < task.num_networks; ++k) {
    forward += task.networks[k]->packed_forward;
    backward += task.networks[k]->packed_backward;
  }
  return forward > backward ? forward : backward;
}

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
  std::vector<int32_t> categories;  // of a network that has only categories; else empty
};

// Owns what a view points to.
class Network {
 public:
  // Throws std::invalid_argument unless every number is in its range.
  explicit Network(const NetworkSource& source);
  const NetworkView& view() const { return view_; }

 private:
  struct Columns {
    std::vector<int64_t> starts{0};
    std::vector<int32_t> columns;
    ColumnView view() const { return {starts.data(), columns.data()}; }
  };
  struct Tiles {
    Columns all, some;
    std::vector<uint8_t> bits;
  };
  struct Mask {
    std::vector<uint8_t> mask;
    std::vector<Share> shares;
  };
  static Tiles tiles_of(const NetworkTermSource& term, bool transposed);
  static Mask mask_of(const NetworkTermSource& term);
  TileView add_tiles(const NetworkTermSource& source, bool transposed, int64_t& packed);
  void add_term(const NetworkTermSource& source);
  void place();

  std::vector<int32_t> widths_;
  std::vector<NetworkOp> ops_;
  std::vector<int32_t> categories_;
  std::vector<NetworkTerm> terms_;
  std::vector<std::unique_ptr<Tiles>> tiles_;
  std::vector<std::unique_ptr<Mask>> masks_;
  std::vector<int64_t> values_, grads_;
  NetworkView view_{};
};

}  // namespace made_fast
