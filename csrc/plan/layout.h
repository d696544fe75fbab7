// What of a packed plan does not depend on its weights: where each of them goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/plan.h"
#include "plan/source.h"

namespace made_fast {

constexpr int64_t kPackedRows = 4 * kPanelRows;  // rows of an operation that are packed together

// Columns that follow one another in the weights of one term.
struct Run {
  int64_t first, count;          // columns of the operation
  int64_t array, width, column;  // the weights that hold them, how wide these are, and the first column there
};

// Where a column goes that is stored for few rows: row r to `out + r`.
struct ColumnTarget {
  int64_t column, first, last;  // rows [first, last) read it
  int64_t out;                  // into column_weights
  int64_t far, far_out;         // rows from here on read it as part of a quad
  int64_t place(int64_t row) const { return row + (row < far ? out : far_out); }
};

// A column of a unit that is looked up.
struct LookedUp {
  int64_t column;
  int32_t place, category;  // its variable, in the order of drawing
};

// How the weights of one affine operation are packed.
struct Packing {
  std::vector<Run> runs;
  std::vector<ColumnTarget> columns;  // by column
  std::vector<int32_t> target_of;     // (num_columns,) which of them, -1 where no row reads the column
  std::vector<LookedUp> looked_up;
  std::vector<int64_t> rows, needed;  // see AffineSource
  std::vector<uint64_t> masked;       // a bit for each column of each row, rows start on a word; empty without a mask
  int64_t first_array;                // the weights of its first term
  std::vector<int64_t> widths;        // of the weights of each term

  int64_t bias() const { return first_array + static_cast<int64_t>(widths.size()); }
};

// Numbers of an array.
struct Span {
  int64_t array, first, count;
};

// Some rows of an operation, which one thread packs.
struct Block {
  int64_t affine, first, count;
  int64_t most;  // leading columns that any of them reads
};

template <class T>
class Layout {
 public:
  explicit Layout(PlanSource<T> source);  // throws std::invalid_argument
  Layout(const Layout&) = delete;

  bool looked_up(int64_t slot) const { return slot >= source.shape.num_slots; }
  int64_t units_of(int32_t place) const {
    const Variable& variable = source.variables[static_cast<size_t>(place)];
    return source.conditionals[static_cast<size_t>(variable.conditional)].units;
  }

  PlanSource<T> source;
  Plan<T> plan{};  // all but the weights
  std::vector<int32_t> variables, noise_steps, param_slots;
  std::vector<AffineInfo> affines;
  std::vector<Panel> panels;
  std::vector<int32_t> panel_columns, panel_from;  // slots to read, and the columns of the operation
  std::vector<int32_t> places;
  std::vector<int64_t> tail_start, column_start;
  std::vector<int32_t> tail_columns, tail_from;
  std::vector<Column> columns;
  std::vector<int32_t> place_of;  // (units that are looked up,) which variable, in the order of drawing
  std::vector<Lookup> lookups;
  std::vector<Quad> quads;
  std::vector<int32_t> quad_at, affine_quads, quad_from;  // see Plan; the columns of the operation, four to a quad
  std::vector<int64_t> quad_start;
  std::vector<QuadColumns> quad_columns;
  std::vector<int32_t> num_lookups;
  std::vector<Packing> packings;     // of the affine operations
  std::vector<Block> blocks;         // of all of them
  std::vector<int64_t> array_sizes;  // of WeightSource::arrays
  std::vector<Span> unread;          // biases, tables, and rows that reach no parameter
  int64_t panel_size = 0, lookup_size = 0, panel_macs = 0, column_size = 0, most_columns = 0;

 private:
  // Where lists that all panels of an operation share start in panel_columns: of all its columns, and of those that are
  // in no quad.
  struct Shared {
    int64_t all, apart, end;
  };

  struct ColumnSource {
    int64_t slot, affine, column, first, last;  // rows [first, last) read the column
  };

  void list_variables();
  int64_t ring_size() const;
  void list_quads();
  void plan_quads(const AffineSource& affine, AffineInfo& info);
  void plan_panels(const AffineSource& affine);
  Shared list_shared(const AffineSource& affine, const AffineInfo& info);
  int64_t shared_to(int64_t first, int64_t end, int64_t column) const;
  std::vector<int32_t> quads_of_panels(const AffineSource& affine, const AffineInfo& info) const;
  void make_room(const AffineSource& affine);
  // A slot, at the start of its vector or the end of it.
  static int64_t whole_vectors(int64_t slot, bool upwards) {
    constexpr int64_t lanes = kAlign / static_cast<int64_t>(sizeof(T));
    return (slot + (upwards ? lanes - 1 : 0)) / lanes * lanes;
  }
  static int64_t known_to(const AffineSource& affine, int64_t row, int64_t rows);
  int64_t list_columns(const AffineSource& affine, const Shared& shared, int64_t row, int64_t rows, int64_t begin,
                       int64_t end, int32_t& count);
  void list_column(const AffineSource& affine, int64_t column);
  void plan_tail(const AffineSource& affine, int64_t row, int64_t from);
  void list_looked_up();
  void plan_lookups(const AffineSource& affine, AffineInfo& info);
  std::vector<ColumnSource> find_columns() const;
  void plan_quad_columns();
  void list_places();
  void plan_columns();
  void plan_packing(const AffineSource& affine);
  void fill_plan();
};

extern template class Layout<float>;
extern template class Layout<double>;

}  // namespace made_fast
