// What each file of this folder adds to the module, and what they share. This folder is all that knows Python.
// Arguments are checked in made_fast/backends/cpp/engine.py; what is checked here and in plan/check.h again would
// otherwise read out of bounds.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/dispatch.h"
#include "plan/check.h"

namespace made_fast {

void bind_build(pybind11::module_& module);
void bind_tables(pybind11::module_& module);
void bind_programs(pybind11::module_& module);
void bind_samplers(pybind11::module_& module);
void bind_products(pybind11::module_& module);
void bind_networks(pybind11::module_& module);
void bind_digest(pybind11::module_& module);
void bind_unchanged(pybind11::module_& module);

// A number of what lies in memory.
uint64_t digest_memory(uintptr_t address, int64_t size);

using Int64Array = pybind11::array_t<int64_t, pybind11::array::c_style>;

// The engine of this name; throws std::invalid_argument if this processor or build has none.
const Engine& find_engine(const std::string& isa);

inline std::vector<int32_t> to_int32(const Int64Array& array) {
  require(array.ndim() == 1, "lists must have one dimension");
  std::vector<int32_t> found;
  for (pybind11::ssize_t i = 0; i < array.size(); ++i) found.push_back(narrowed(array.data()[i]));
  return found;
}

// Where an array of the caller starts; null for 0.
template <class T>
T* at_address(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// A structure for each row of a table whose columns are those of Column, made by `row_of`.
template <class Column, class RowOf>
auto to_rows(const Int64Array& table, const char* name, const RowOf& row_of) {
  std::vector<decltype(row_of(NamedRow<Column>{nullptr}))> rows;
  if (table.ndim() != 2 || table.shape(1) != Names<Column>::count)
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(Names<Column>::count) +
                                " columns, those of " + Names<Column>::title);
  NamedRow<Column> row{table.data()};
  for (pybind11::ssize_t i = 0; i < table.shape(0); ++i, row = row.next()) rows.push_back(row_of(row));
  return rows;
}

}  // namespace made_fast
