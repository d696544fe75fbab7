// Masked products, and the sides of masks that they go through.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "plan/mask_side.h"
#include "python/bind.h"

namespace py = pybind11;

namespace made_fast {
namespace {

using Words = py::array_t<uint16_t, py::array::c_style>;

MaskGroup to_group(const NamedRow<GroupColumn>& row) {
  return {row[GroupColumn::positions],
          row[GroupColumn::bits],
          row.narrow(GroupColumn::size),
          {row.narrow(GroupColumn::partial_from), row.narrow(GroupColumn::partial_to)},
          {row.narrow(GroupColumn::first_from), row.narrow(GroupColumn::first_to)},
          {row.narrow(GroupColumn::second_from), row.narrow(GroupColumn::second_to)},
          row.narrow(GroupColumn::num_rows)};
}

std::unique_ptr<MaskSide> make_side(const Int64Array& rows, const Int64Array& columns, const Int64Array& groups,
                                    const Int64Array& longest_first, const Int64Array& positions, const Words& bits,
                                    bool contiguous) {
  MaskSideSource source;
  source.rows = to_int32(rows);
  source.columns = to_int32(columns);
  source.longest_first = to_int32(longest_first);
  source.positions = to_int32(positions);
  require(bits.ndim() == 1, "lists must have one dimension");
  source.bits.assign(bits.data(), bits.data() + bits.size());
  source.groups = to_rows<GroupColumn>(groups, "groups", to_group);
  source.contiguous = contiguous;
  return std::make_unique<MaskSide>(std::move(source));
}

template <class T>
int masked_matmul(const std::string& isa, const MaskSide& side, int64_t batch, uintptr_t x, uintptr_t weight,
                  int64_t row_stride, int64_t column_stride, uintptr_t bias, int function, uintptr_t out,
                  int num_threads) {
  const Engine& engine = find_engine(isa);
  require(batch >= 0, "batch must count rows");
  const MatmulTask<T> task{side.view(),        batch,         at_address<const T>(x),    at_address<const T>(weight),
                           row_stride,         column_stride, at_address<const T>(bias), to_code<Function>(function),
                           at_address<T>(out), num_threads};
  const py::gil_scoped_release released;
  if constexpr (sizeof(T) == 4) {
    return static_cast<int>(engine.masked_matmul_f32(task));
  } else {
    return static_cast<int>(engine.masked_matmul_f64(task));
  }
}

template <class T>
int masked_outer(const std::string& isa, const MaskSide& side, int64_t batch, uintptr_t grad, uintptr_t x,
                 uintptr_t out, int num_threads) {
  const Engine& engine = find_engine(isa);
  require(batch >= 0, "batch must count rows");
  const OuterTask<T> task{side.view(),        batch,      at_address<const T>(grad), at_address<const T>(x),
                          at_address<T>(out), num_threads};
  const py::gil_scoped_release released;
  if constexpr (sizeof(T) == 4) {
    return static_cast<int>(engine.masked_outer_f32(task));
  } else {
    return static_cast<int>(engine.masked_outer_f64(task));
  }
}

template <class T>
void bind_products_of(py::module_& module, const std::string& ending) {
  module.def(("masked_matmul_" + ending).c_str(), &masked_matmul<T>, py::arg("isa"), py::arg("side"), py::arg("batch"),
             py::arg("x"), py::arg("weight"), py::arg("row_stride"), py::arg("column_stride"), py::arg("bias"),
             py::arg("function"), py::arg("out"), py::arg("num_threads"));
  module.def(("masked_outer_" + ending).c_str(), &masked_outer<T>, py::arg("isa"), py::arg("side"), py::arg("batch"),
             py::arg("grad"), py::arg("x"), py::arg("out"), py::arg("num_threads"));
}

}  // namespace

void bind_products(py::module_& module) {
  py::class_<MaskSide>(module, "MaskSide")
      .def(py::init(&make_side), py::kw_only(), py::arg("rows"), py::arg("columns"), py::arg("groups"),
           py::arg("longest_first"), py::arg("positions"), py::arg("bits"), py::arg("contiguous"));
  bind_products_of<float>(module, "f32");
  bind_products_of<double>(module, "f64");
}

}  // namespace made_fast
