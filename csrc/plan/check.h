// What comes from Python is checked here once, when it is packed or called: an engine trusts its plan.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "plan/codes.h"
#include "plan/source.h"

namespace made_fast {

// Throws std::invalid_argument unless it holds.
inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Whether [first, first + count) lies in [0, size).
inline bool inside(int64_t first, int64_t count, int64_t size) {
  return first >= 0 && count >= 0 && first <= size && count <= size - first;
}

// The value of an enumeration with this number; refuses what this build does not have.
template <class Code>
Code to_code(int64_t number) {
  using Known = Names<Code>;
  if (inside(number, 1, Known::count)) return static_cast<Code>(number);
  std::string message =
      std::string(Known::title) + " " + std::to_string(number) + " is unknown to this build, which has";
  for (int i = 0; i < Known::count; ++i) message += (i ? ", " : " ") + std::to_string(i) + " (" + Known::list[i] + ")";
  throw std::invalid_argument(message);
}

// A whole number in 32 bits; refuses what would become another one.
inline int32_t narrowed(int64_t number) {
  require(number == static_cast<int32_t>(number), "numbers of rows, columns and slots must fit into 32 bits");
  return static_cast<int32_t>(number);
}

// A row of a table of integers, read by the names of its columns.
template <class Column>
struct NamedRow {
  const int64_t* first;
  int64_t operator[](Column column) const { return first[static_cast<int>(column)]; }
  int32_t narrow(Column column) const { return narrowed((*this)[column]); }
  NamedRow next() const { return {first + Names<Column>::count}; }
};

// Throws std::invalid_argument if packing or drawing would read or write outside of its arrays.
template <class T>
void check_source(const PlanSource<T>& source);

extern template void check_source(const PlanSource<float>&);
extern template void check_source(const PlanSource<double>&);

}  // namespace made_fast
