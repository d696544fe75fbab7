#include "python/program.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace made_fast {
namespace {

ConditionalEntry make_conditional(int64_t code, int64_t encoding, int32_t num_params, int32_t num_draws, int32_t size,
                                  int32_t components, int32_t units, double floor, double scale, double shift,
                                  uintptr_t native_draw) {
  return {to_code<Code>(code),
          to_code<Encoding>(encoding),
          num_params,
          num_draws,
          size,
          components,
          units,
          floor,
          scale,
          shift,
          native_draw};
}

}  // namespace

void bind_programs(py::module_& module) {
  py::class_<ConditionalEntry>(module, "Conditional")
      .def(py::init(&make_conditional), py::kw_only(), py::arg("code"), py::arg("encoding"), py::arg("num_params"),
           py::arg("num_draws"), py::arg("size"), py::arg("components"), py::arg("units"), py::arg("floor"),
           py::arg("scale"), py::arg("shift"), py::arg("native_draw"));
  py::class_<AffineEntry>(module, "Affine")
      .def(py::init<int64_t, std::vector<py::array>, py::object, Int64Array, Int64Array, Int64Array, Int64Array,
                    Int64Array, py::object>(),
           py::kw_only(), py::arg("first_slot"), py::arg("weights"), py::arg("bias"), py::arg("rows"),
           py::arg("columns"), py::arg("slots"), py::arg("needed"), py::arg("ready"), py::arg("mask"));
}

}  // namespace made_fast
