#include "plan/network.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "plan/check.h"

namespace made_fast {

Network::Lists Network::tiles_of(const NetworkTermSource& term, bool transposed) {
  const int64_t rows = transposed ? term.columns : term.rows, columns = transposed ? term.rows : term.columns;
  const int64_t row_stride = transposed ? 1 : term.columns, column_stride = transposed ? term.columns : 1;
  Lists lists;
  lists.starts.push_back(0);
  for (int64_t row = 0; row < rows; row += kUnitsAtOnce) {
    for (int64_t column = 0; column < columns; ++column) {
      int bits = 0;
      for (int64_t r = 0; r < kUnitsAtOnce && row + r < rows; ++r)
        if (term.mask[(row + r) * row_stride + column * column_stride] != 0) bits |= 1 << r;
      if (bits == 0) continue;
      lists.columns.push_back(static_cast<int32_t>(column));
      lists.bits.push_back(static_cast<uint8_t>(bits));
    }
    lists.starts.push_back(static_cast<int64_t>(lists.columns.size()));
  }
  return lists;
}

Network::Network(const NetworkSource& source) : ops_(source.ops) {
  constexpr int64_t most = int64_t{1} << 30;
  require(source.features > 0 && source.context_features >= 0, "widths of x and context must be positive");
  require(!ops_.empty() && ops_.size() + 2 <= kMostValues, "a network must have 1 to 126 operations");
  widths_ = {source.features, source.context_features};
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
      NetworkTerm made{term.source, term.weight, static_cast<int32_t>(term.columns), {}, {}};
      for (bool transposed : {false, true}) {
        lists_.push_back(std::make_unique<Lists>(tiles_of(term, transposed)));
        const Lists& lists = *lists_.back();
        int64_t& packed = transposed ? view_.packed_backward : view_.packed_forward;
        (transposed ? made.backward : made.forward) = {static_cast<int64_t>(lists.starts.size()) - 1,
                                                       lists.starts.data(), lists.columns.data(), lists.bits.data(),
                                                       packed};
        packed += lists.starts.back() * kUnitsAtOnce;
      }
      terms_.push_back(made);
    }
    widths_.push_back(op.width);
  }
  require(next == source.terms.size(), "every term must belong to an operation");
  for (int32_t width : widths_) view_.units += width;
  view_.num_values = static_cast<int32_t>(widths_.size());
  view_.num_terms = static_cast<int32_t>(terms_.size());
  view_.num_weights = source.num_weights;
  view_.widths = widths_.data();
  view_.terms = terms_.data();
  view_.ops = ops_.data();
}

}  // namespace made_fast
