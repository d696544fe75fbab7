#include "plan/mask_side.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "plan/check.h"

namespace made_fast {
namespace {

int64_t size_of(const std::vector<int32_t>& list) { return static_cast<int64_t>(list.size()); }

bool all_below(const std::vector<int32_t>& list, int64_t end) {
  return std::all_of(list.begin(), list.end(), [end](int32_t value) { return inside(value, 1, end); });
}

bool natural(const std::vector<int32_t>& order) {
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != static_cast<int32_t>(i)) return false;
  return true;
}

}  // namespace

MaskSide::MaskSide(MaskSideSource source) : source_(std::move(source)), places_(source_.columns.size()) {
  check();
  const MaskSideSource& s = source_;
  for (size_t i = 0; i < s.columns.size(); ++i) places_[static_cast<size_t>(s.columns[i])] = static_cast<int32_t>(i);
  view_ = {size_of(s.rows), size_of(s.columns),     static_cast<int64_t>(s.groups.size()),
           s.rows.data(),   s.columns.data(),       places_.data(),
           s.groups.data(), s.longest_first.data(), s.positions.data(),
           s.bits.data(),   natural(s.rows),        natural(s.columns),
           s.contiguous};
}

void MaskSide::check() const {
  const MaskSideSource& s = source_;
  const auto num_groups = static_cast<int64_t>(s.groups.size());
  require(all_below(s.rows, size_of(s.rows)), "rows must be numbers of rows");
  require(all_below(s.columns, size_of(s.columns)), "columns must be numbers of columns");
  require(all_below(s.positions, size_of(s.columns)), "positions must be places of columns");
  require(num_groups == (size_of(s.rows) + kGroupRows - 1) / kGroupRows, "groups must have 16 rows, the last the rest");
  require(size_of(s.longest_first) == num_groups && all_below(s.longest_first, num_groups),
          "longest_first must list the groups");
  for (int64_t i = 0; i < num_groups; ++i) check_group(s.groups[static_cast<size_t>(i)], i);
}

void MaskSide::check_group(const MaskGroup& group, int64_t number) const {
  const MaskSideSource& s = source_;
  const auto within = [](const int32_t (&range)[2], int32_t size) {
    return 0 <= range[0] && range[0] <= range[1] && range[1] <= size;
  };
  const int64_t rows = std::min<int64_t>(kGroupRows, size_of(s.rows) - number * kGroupRows);
  require(group.num_rows == rows, "groups must have 16 rows, the last the rest");
  require(inside(group.positions, group.size, size_of(s.positions)), "lists of groups must lie in positions");
  require(within(group.partial, group.size), "partial columns of groups must lie in their lists");
  const int64_t num_partial = group.partial[1] - group.partial[0];
  require(inside(group.bits, num_partial, static_cast<int64_t>(s.bits.size())), "words of groups must lie in bits");
  for (int64_t i = group.bits; i < group.bits + num_partial; ++i)
    require(s.bits[static_cast<size_t>(i)] >> group.num_rows == 0, "words of groups must name their rows alone");
  for (const auto* range : {&group.first_panel, &group.second_panel})
    require((*range)[0] >= (*range)[1] || within(*range, group.size), "panels of groups must lie in their lists");
}

}  // namespace made_fast
