// What was compiled, and what of it runs here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/dispatch.h"
#include "python/bind.h"

namespace py = pybind11;

namespace made_fast {
namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Engine* engine : usable_engines()) names.emplace_back(engine->name);
  return names;
}

double fma_rate(const std::string& isa, bool double_precision, int num_threads, int64_t repeats) {
  const Engine& engine = find_engine(isa);
  const py::gil_scoped_release released;
  return (double_precision ? engine.fma_rate_f64 : engine.fma_rate_f32)(num_threads, repeats);
}

}  // namespace

const Engine& find_engine(const std::string& isa) {
  for (const Engine* engine : usable_engines())
    if (isa == engine->name) return *engine;
  throw std::invalid_argument("this processor or build has no instruction set '" + isa + "'");
}

void bind_build(py::module_& module) {
  module.def("instruction_sets", &instruction_sets);
  module.def("has_bf16", [] { return bf16_engine() != nullptr; });
  module.def("fma_rate", &fma_rate, py::arg("isa"), py::arg("double_precision"), py::arg("num_threads"),
             py::arg("repeats"));
#if defined(_OPENMP)
  module.attr("openmp") = true;
#else
  module.attr("openmp") = false;
#endif
  module.def("compiler", [] { return std::pair<std::string, std::string>(MADE_FAST_COMPILER, MADE_FAST_BUILD_TYPE); });
}

}  // namespace made_fast
