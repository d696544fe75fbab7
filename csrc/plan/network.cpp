#include "plan/network.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "plan/check.h"

namespace made_fast {
namespace {

// Whether the slope of a function follows from what it gives, so that its argument need not be kept.
bool slope_follows(Function function) {
  return function != Function::gelu && function != Function::silu && function != Function::softplus;
}

}  // namespace

Network::Tiles Network::tiles_of(const NetworkTermSource& term, bool transposed) {
  const int64_t rows = transposed ? term.columns : term.rows, columns = transposed ? term.rows : term.columns;
  const int64_t row_stride = transposed ? 1 : term.columns, column_stride = transposed ? term.columns : 1;
  Tiles tiles;
  for (int64_t row = 0; row < rows; row += kUnitsAtOnce) {
    const int64_t count = std::min<int64_t>(kUnitsAtOnce, rows - row);
    for (int64_t column = 0; column < columns; ++column) {
      int bits = 0;
      for (int64_t r = 0; r < count; ++r)
        if (term.mask[(row + r) * row_stride + column * column_stride] != 0) bits |= 1 << r;
      if (bits == 0) continue;
      const bool all = bits == (1 << count) - 1;
      (all ? tiles.all : tiles.some).columns.push_back(static_cast<int32_t>(column));
      if (!all) tiles.bits.push_back(static_cast<uint8_t>(bits));
    }
    for (Columns* list : {&tiles.all, &tiles.some}) list->starts.push_back(static_cast<int64_t>(list->columns.size()));
  }
  return tiles;
}

Network::Mask Network::mask_of(const NetworkTermSource& term) {
  Mask made;
  made.mask.assign(term.mask, term.mask + term.rows * term.columns);
  for (int64_t row = 0; row < term.rows; row += kUnitsAtOnce) {
    const int64_t last_row = std::min(row + kUnitsAtOnce, term.rows);
    for (int64_t column = 0; column < term.columns; column += kSegment) {
      const int64_t last_column = std::min(column + kSegment, term.columns);
      int64_t kept = 0;
      for (int64_t r = row; r < last_row; ++r)
        for (int64_t c = column; c < last_column; ++c) kept += term.mask[r * term.columns + c] != 0;
      const bool all = kept == (last_row - row) * (last_column - column);
      made.shares.push_back(kept == 0 ? Share::none : all ? Share::all : Share::some);
    }
  }
  return made;
}

TileView Network::add_tiles(const NetworkTermSource& source, bool transposed, int64_t& packed) {
  tiles_.push_back(std::make_unique<Tiles>(tiles_of(source, transposed)));
  const Tiles& tiles = *tiles_.back();
  const auto count = static_cast<int64_t>(tiles.all.starts.size()) - 1;
  const TileView view = {count, tiles.all.view(), tiles.some.view(), tiles.bits.data(), packed};
  packed += tiles.some.starts.back() * kUnitsAtOnce;
  return view;
}

void Network::add_term(const NetworkTermSource& source) {
  NetworkTerm made{};
  made.source = source.source;
  made.weight = source.weight;
  made.rows = static_cast<int32_t>(source.rows);
  made.columns = static_cast<int32_t>(source.columns);
  made.forward = add_tiles(source, false, view_.packed_forward);
  made.backward = add_tiles(source, true, view_.packed_backward);
  const TileView& forward = made.forward;
  view_.macs += (forward.all.starts[forward.tiles] + forward.some.starts[forward.tiles]) * kUnitsAtOnce;
  masks_.push_back(std::make_unique<Mask>(mask_of(source)));
  made.mask = masks_.back()->mask.data();
  made.shares = masks_.back()->shares.data();
  terms_.push_back(made);
}

// A function of a value that nobody else reads is computed where the value is.
void Network::place() {
  std::vector<int> readers(widths_.size());
  for (const NetworkOp& op : ops_) {
    if (op.kind == Kind::affine) continue;
    ++readers[static_cast<size_t>(op.left)];
    if (op.kind != Kind::unary) ++readers[static_cast<size_t>(op.right)];
  }
  for (const NetworkTerm& term : terms_) ++readers[static_cast<size_t>(term.source)];
  for (size_t v = 2; v + 1 < widths_.size(); ++v) require(readers[v] > 0, "every value must be read");
  for (size_t v = 0; v < widths_.size(); ++v) {
    const NetworkOp* op = v < 2 ? nullptr : &ops_[v - 2];
    const bool alone =
        op != nullptr && op->kind == Kind::unary && op->left >= 2 && readers[static_cast<size_t>(op->left)] == 1;
    const size_t left = op == nullptr ? 0 : static_cast<size_t>(op->left);
    const bool in_place = alone && slope_follows(op->function);
    values_.push_back(in_place ? values_[left] : view_.value_units);
    grads_.push_back(alone ? grads_[left] : view_.grad_units);
    if (!in_place) view_.value_units += widths_[v];
    if (!alone && v >= 2) view_.grad_units += widths_[v];  // those of x and the context are kept elsewhere
  }
}

Network::Network(const NetworkSource& source) : ops_(source.ops), categories_(source.categories) {
  constexpr int64_t most = int64_t{1} << 30;
  require(source.features > 0 && source.context_features >= 0, "widths of x and context must be positive");
  require(!ops_.empty() && ops_.size() + 2 <= kMostValues, "a network must have 1 to 126 operations");
  require(source.num_weights >= 0 && source.num_weights < most, "weights must be a number of them");
  widths_ = {source.features, source.context_features};
  int64_t units = 0;
  for (const int32_t count : source.categories) {
    require(count > 0, "variables must have categories");
    units += count;
  }
  require(source.categories.empty() || units == source.features, "x must have a unit for each category");
  std::vector<int> used(static_cast<size_t>(source.num_weights));
  size_t next = 0;
  for (const NetworkOp& op : ops_) {
    const auto known = static_cast<int64_t>(widths_.size());
    require(op.width > 0 && op.width < most, "widths must be positive");
    require(inside(op.first_term, op.num_terms, static_cast<int64_t>(source.terms.size())) &&
                static_cast<size_t>(op.first_term) == next,
            "terms must be in the order of their operations");
    next += static_cast<size_t>(op.num_terms);
    if (op.kind == Kind::affine) {
      require(op.num_terms > 0 && op.num_terms <= kMostTerms, "an affine operation must have 1 to 8 terms");
      require(op.bias == -1 || inside(op.bias, 1, source.num_weights), "a bias must be one of the weights");
      require(op.bias == -1 || ++used[static_cast<size_t>(op.bias)] == 1, "a weight must be used once");
    } else {
      require(op.kind == Kind::unary || op.kind == Kind::add || op.kind == Kind::multiply, "an operation is unknown");
      require(op.num_terms == 0, "only affine operations have terms");
      require(inside(op.left, 1, known) && widths_[static_cast<size_t>(op.left)] == op.width, "left must fit");
      require(
          op.kind == Kind::unary || (inside(op.right, 1, known) && widths_[static_cast<size_t>(op.right)] == op.width),
          "right must fit");
    }
    for (int32_t i = 0; i < op.num_terms; ++i) {
      const NetworkTermSource& term = source.terms[static_cast<size_t>(op.first_term + i)];
      require(inside(term.source, 1, known) && widths_[static_cast<size_t>(term.source)] == term.columns,
              "the columns of a weight must be those of its source");
      require(term.rows == op.width && inside(term.weight, 1, source.num_weights), "a weight must fit its operation");
      require(++used[static_cast<size_t>(term.weight)] == 1, "a weight must be used once");
      add_term(term);
    }
    widths_.push_back(op.width);
  }
  require(next == source.terms.size(), "every term must belong to an operation");
  place();
  view_.num_values = static_cast<int32_t>(widths_.size());
  view_.num_terms = static_cast<int32_t>(terms_.size());
  view_.num_weights = source.num_weights;
  view_.widths = widths_.data();
  view_.terms = terms_.data();
  view_.ops = ops_.data();
  view_.values = values_.data();
  view_.grads = grads_.data();
  view_.categories = categories_.data();
  view_.num_categorical = static_cast<int32_t>(categories_.size());
}

}  // namespace made_fast
