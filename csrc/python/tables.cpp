// The names of codes and columns, for the test that holds them against those of Python, and for messages.
#include <pybind11/pybind11.h>

#include "plan/codes.h"
#include "python/bind.h"

namespace py = pybind11;

namespace made_fast {
namespace {

template <class Code>
void add_names(py::dict& tables) {
  py::list names;
  for (const char* name : Names<Code>::list) names.append(name);
  tables[Names<Code>::title] = names;
}

py::dict all_names() {
  py::dict tables;
  add_names<Kind>(tables);
  add_names<Function>(tables);
  add_names<Code>(tables);
  add_names<Encoding>(tables);
  add_names<Status>(tables);
  add_names<StepColumn>(tables);
  add_names<VariableColumn>(tables);
  add_names<SumColumn>(tables);
  add_names<GroupColumn>(tables);
  add_names<Head>(tables);
  add_names<NetworkColumn>(tables);
  return tables;
}

}  // namespace

void bind_tables(py::module_& module) { module.def("tables", &all_names); }

}  // namespace made_fast
