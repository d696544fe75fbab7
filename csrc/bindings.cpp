// The only file that knows Python. Arguments are checked in made_fast/backends/cpp.py; what is checked here again would
// otherwise read out of bounds.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "mask_plan.h"
#include "pack.h"

namespace py = pybind11;

namespace made_fast {
namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;

std::vector<int32_t> to_int32(const Int64Array& array) { return {array.data(), array.data() + array.size()}; }

std::vector<Step> to_steps(const Int64Array& array) {
  if (array.ndim() != 2 || array.shape(1) != 6) throw std::invalid_argument("steps must have shape (S, 6)");
  std::vector<Step> steps;
  const int64_t* at = array.data();
  for (py::ssize_t i = 0; i < array.shape(0); ++i, at += 6)
    steps.push_back({static_cast<Kind>(at[0]), static_cast<int32_t>(at[1]), static_cast<int32_t>(at[2]),
                     static_cast<int32_t>(at[3]), static_cast<int32_t>(at[4]), static_cast<Function>(at[5])});
  return steps;
}

const Engine* find(const std::string& isa) {
  for (const Engine* engine : usable_engines())
    if (isa == engine->name) return engine;
  throw std::invalid_argument("this processor or build has no instruction set '" + isa + "'");
}

// A row for each variable in the order of drawing: number, noise step, first parameter slot, first input slot,
// conditional, first flag, start of its embedding.
std::vector<Variable> to_variables(const Int64Array& array) {
  if (array.ndim() != 2 || array.shape(1) != 7) throw std::invalid_argument("variables must have shape (D, 7)");
  std::vector<Variable> found;
  const int64_t* at = array.data();
  for (py::ssize_t i = 0; i < array.shape(0); ++i, at += 7)
    found.push_back({static_cast<int32_t>(at[0]), static_cast<int32_t>(at[1]), static_cast<int32_t>(at[2]),
                     static_cast<int32_t>(at[3]), static_cast<int32_t>(at[4]), at[5], at[6]});
  return found;
}

// (code, encoding, num_params, num_draws, size, components, units, floor, scale, shift, address of the draw or 0)
template <class T>
Conditional<T> to_conditional(const py::handle& item) {
  const auto entry = py::reinterpret_borrow<py::tuple>(item);
  const auto integer = [&](size_t i) { return entry[i].cast<int32_t>(); };
  const auto number = [&](size_t i) { return static_cast<T>(entry[i].cast<double>()); };
  using Own = void (*)(const T*, const float*, T*, int64_t, int64_t);
  return {static_cast<Code>(integer(0)),
          static_cast<Encoding>(integer(1)),
          integer(2),
          integer(3),
          integer(4),
          integer(5),
          integer(6),
          number(7),
          number(8),
          number(9),
          reinterpret_cast<Own>(entry[10].cast<uintptr_t>())};
}

template <class T>
class Sampler {
 public:
  using Values = py::array_t<T, py::array::c_style>;

  Sampler(const py::tuple& shape, const Int64Array& steps, const Int64Array& variables, const py::list& conditionals,
          const Values& tables, const Int64Array& context_units, const py::list& affines, bool bf16)
      : bf16_(bf16), packed_(source(shape, steps, variables, conditionals, tables, context_units, affines, bf16)) {
    if (bf16 && (sizeof(T) != 4 || bf16_engine() == nullptr))
      throw std::invalid_argument("this processor or build has no bf16 engine");
  }

  int draw(const std::string& isa, int64_t num_rows, uint64_t first_row, uintptr_t rows, uint64_t seed,
           uintptr_t context, int64_t row_offset, int64_t rows_per_context, uintptr_t out, uintptr_t log_prob,
           uintptr_t log_weight, const py::tuple& conditions, const py::tuple& decoding, int num_threads,
           int rows_at_once) const {
    const Engine* engine = bf16_ ? bf16_engine() : find(isa);
    const Request<T> request{num_rows,
                             first_row,
                             reinterpret_cast<const int64_t*>(rows),
                             seed,
                             reinterpret_cast<const T*>(context),
                             row_offset,
                             rows_per_context,
                             reinterpret_cast<T*>(out),
                             reinterpret_cast<T*>(log_prob),
                             reinterpret_cast<T*>(log_weight),
                             to_conditions(conditions),
                             to_decoding(decoding),
                             num_threads,
                             rows_at_once};
    const py::gil_scoped_release released;
    if constexpr (sizeof(T) == 4) {
      const auto draw = bf16_ ? engine->draw_bf16 : engine->draw_f32;
      return static_cast<int>(draw(packed_.plan(), request));
    } else {
      return static_cast<int>(engine->draw_f64(packed_.plan(), request));
    }
  }

  int64_t scratch_bytes(const std::string& isa, int64_t num_rows, int num_threads, int rows_at_once) const {
    if constexpr (sizeof(T) == 4) {
      return find(isa)->scratch_f32(packed_.plan(), num_rows, num_threads, rows_at_once);
    } else {
      return find(isa)->scratch_f64(packed_.plan(), num_rows, num_threads, rows_at_once);
    }
  }

  int64_t panel_macs() const { return packed_.panel_macs(); }
  int64_t column_macs() const { return packed_.column_macs(); }
  int64_t bytes() const { return packed_.bytes(); }

 private:
  // Addresses of given, observed, support, bounds, constrained, 0 for those that are not there; flags in a row of
  // support.
  static Conditions<T> to_conditions(const py::tuple& arrays) {
    if (arrays.empty()) return {};
    const auto address = [&](size_t i) { return arrays[i].cast<uintptr_t>(); };
    return {reinterpret_cast<const T*>(address(0)),       reinterpret_cast<const uint8_t*>(address(1)),
            reinterpret_cast<const uint8_t*>(address(2)), reinterpret_cast<const T*>(address(3)),
            reinterpret_cast<const uint8_t*>(address(4)), arrays[5].cast<int64_t>()};
  }

  // temperature, greedy, top_k, top_p
  static Decoding<T> to_decoding(const py::tuple& options) {
    if (options.empty()) return {T(1), T(1), T(1), false, 0, T(1)};
    const double temperature = options[0].cast<double>();
    const double inverse = std::min(1 / temperature, static_cast<double>(std::numeric_limits<T>::max()));
    return {static_cast<T>(inverse), static_cast<T>(temperature), static_cast<T>(std::sqrt(temperature)),
            options[1].cast<bool>(), options[2].cast<int64_t>(),  static_cast<T>(options[3].cast<double>())};
  }

  static PlanSource<T> source(const py::tuple& shape, const Int64Array& steps, const Int64Array& variables,
                              const py::list& conditionals, const Values& tables, const Int64Array& context_units,
                              const py::list& affines, bool bf16) {
    PlanSource<T> found{};
    const auto integer = [&](size_t i) { return shape[i].cast<int64_t>(); };
    found.shape = {integer(0), integer(1), integer(2), integer(3), integer(4), shape[5].cast<bool>()};
    found.steps = to_steps(steps);
    found.variables = to_variables(variables);
    for (const py::handle& each : conditionals) found.conditionals.push_back(to_conditional<T>(each));
    found.tables.assign(tables.data(), tables.data() + tables.size());
    found.context_units = to_int32(context_units);
    found.affines = sources(affines);
    found.in_pairs = bf16;
    return found;
  }

  using Mask = py::array_t<bool, py::array::c_style>;

  // Each entry: (first_slot, weights (n, m), transposed (m, n), bias (n,), slots (m,), needed (n,), ready (n,), mask
  // (n, m) or None)
  static std::vector<AffineSource<T>> sources(const py::list& affines) {
    std::vector<AffineSource<T>> found;
    for (const py::handle& item : affines) {
      const auto entry = py::reinterpret_borrow<py::tuple>(item);
      const auto weights = entry[1].cast<Values>();
      const bool any_mask = !entry[7].is_none();
      AffineSource<T> source{};
      source.first_slot = entry[0].cast<int64_t>();
      source.num_rows = weights.shape(0);
      source.num_columns = weights.shape(1);
      source.weights = weights.data();
      source.transposed = entry[2].cast<Values>().data();
      source.bias = entry[3].cast<Values>().data();
      source.slots = entry[4].cast<Int64Array>().data();
      source.needed = entry[5].cast<Int64Array>().data();
      source.ready = entry[6].cast<Int64Array>().data();
      source.mask = any_mask ? reinterpret_cast<const uint8_t*>(entry[7].cast<Mask>().data()) : nullptr;
      found.push_back(source);  // the list keeps the arrays alive while the plan is packed
    }
    return found;
  }

  bool bf16_;
  PackedPlan<T> packed_;
};

template <class T>
void bind_sampler(py::module_& module, const char* name) {
  py::class_<Sampler<T>>(module, name)
      .def(py::init<const py::tuple&, const Int64Array&, const Int64Array&, const py::list&,
                    const typename Sampler<T>::Values&, const Int64Array&, const py::list&, bool>(),
           py::arg("shape"), py::arg("steps"), py::arg("variables"), py::arg("conditionals"), py::arg("tables"),
           py::arg("context_units"), py::arg("affines"), py::arg("bf16") = false)
      .def("draw", &Sampler<T>::draw, py::arg("isa"), py::arg("num_rows"), py::arg("first_row"), py::arg("rows"),
           py::arg("seed"), py::arg("context"), py::arg("row_offset"), py::arg("rows_per_context"), py::arg("out"),
           py::arg("log_prob"), py::arg("log_weight"), py::arg("conditions"), py::arg("decoding"),
           py::arg("num_threads"), py::arg("rows_at_once"))
      .def("scratch_bytes", &Sampler<T>::scratch_bytes, py::arg("isa"), py::arg("num_rows"), py::arg("num_threads"),
           py::arg("rows_at_once") = 0)
      .def_property_readonly("panel_macs", &Sampler<T>::panel_macs)
      .def_property_readonly("column_macs", &Sampler<T>::column_macs)
      .def_property_readonly("bytes", &Sampler<T>::bytes);
}

// Owns the arrays of a MaskView: one side of a mask (its rows, or after transposition its columns).
class MaskSide {
 public:
  MaskSide(const Int64Array& rows, const Int64Array& columns, const Int64Array& groups, const Int64Array& longest_first,
           const Int64Array& positions, const py::array_t<uint16_t, py::array::c_style>& bits, bool contiguous)
      : rows_(to_int32(rows)),
        columns_(to_int32(columns)),
        places_(columns_.size()),
        longest_first_(to_int32(longest_first)),
        positions_(to_int32(positions)),
        bits_(bits.data(), bits.data() + bits.size()) {
    for (size_t i = 0; i < columns_.size(); ++i) places_.at(static_cast<size_t>(columns_[i])) = static_cast<int32_t>(i);
    if (groups.ndim() != 2 || groups.shape(1) != 10) throw std::invalid_argument("groups must have shape (G, 10)");
    for (py::ssize_t i = 0; i < groups.shape(0); ++i) {
      const int64_t* at = groups.data() + 10 * i;
      int32_t rest[8];
      for (int j = 0; j < 8; ++j) rest[j] = static_cast<int32_t>(at[2 + j]);
      groups_.push_back({at[0], at[1], rest[0], {rest[1], rest[2]}, {rest[3], rest[4]}, {rest[5], rest[6]}, rest[7]});
    }
    view_ = {static_cast<int64_t>(rows_.size()),
             static_cast<int64_t>(columns_.size()),
             static_cast<int64_t>(groups_.size()),
             rows_.data(),
             columns_.data(),
             places_.data(),
             groups_.data(),
             longest_first_.data(),
             positions_.data(),
             bits_.data(),
             natural(rows_),
             natural(columns_),
             contiguous};
  }
  MaskSide(const MaskSide&) = delete;

  const MaskView& view() const { return view_; }

 private:
  static bool natural(const std::vector<int32_t>& order) {
    for (size_t i = 0; i < order.size(); ++i)
      if (order[i] != static_cast<int32_t>(i)) return false;
    return true;
  }

  std::vector<int32_t> rows_, columns_, places_, longest_first_, positions_;
  std::vector<MaskGroup> groups_;
  std::vector<uint16_t> bits_;
  MaskView view_;
};

// 64 bits that tell apart what lies in memory: each step folds the 128-bit product of two words, one of them mixed with
// what came before in its lane.
uint64_t fold(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t digest(uintptr_t address, int64_t size) {
  constexpr int lanes = 8;
  const auto* bytes = reinterpret_cast<const unsigned char*>(address);
  uint64_t state[lanes];
  for (int lane = 0; lane < lanes; ++lane)
    state[lane] = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(lane + 1) ^ static_cast<uint64_t>(size);
  const auto step = [](uint64_t& lane, const unsigned char* at) {
    uint64_t a, b;
    std::memcpy(&a, at, 8);
    std::memcpy(&b, at + 8, 8);
    lane = fold(a ^ 0x2D358DCCAA6C78A5u, b ^ lane) + 0x8BB84B93962EACC9u;
  };
  int64_t i = 0;
  for (; i + 16 * lanes <= size; i += 16 * lanes)
    for (int lane = 0; lane < lanes; ++lane) step(state[lane], bytes + i + 16 * lane);
  for (; i < size; i += 16) {
    unsigned char rest[16] = {};
    std::memcpy(rest, bytes + i, static_cast<size_t>(std::min<int64_t>(16, size - i)));
    step(state[0], rest);
  }
  uint64_t whole = 0;
  for (const uint64_t lane : state) whole = fold(whole ^ lane, 0xD1B54A32D192ED03u);
  return whole;
}

template <class T>
const T* values(uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

template <class T>
Status matmul_in(const Engine& engine, const MatmulTask<T>& task) {
  if constexpr (sizeof(T) == 4) {
    return engine.masked_matmul_f32(task);
  } else {
    return engine.masked_matmul_f64(task);
  }
}

template <class T>
Status outer_in(const Engine& engine, const OuterTask<T>& task) {
  if constexpr (sizeof(T) == 4) {
    return engine.masked_outer_f32(task);
  } else {
    return engine.masked_outer_f64(task);
  }
}

template <class T>
int masked_matmul(const std::string& isa, const MaskSide& side, int64_t batch, uintptr_t x, uintptr_t weight,
                  int64_t row_stride, int64_t column_stride, uintptr_t bias, int function, uintptr_t out,
                  int num_threads) {
  const Engine* engine = find(isa);
  const MatmulTask<T> task{side.view(),
                           batch,
                           values<T>(x),
                           values<T>(weight),
                           row_stride,
                           column_stride,
                           values<T>(bias),
                           static_cast<Function>(function),
                           reinterpret_cast<T*>(out),
                           num_threads};
  const py::gil_scoped_release released;
  return static_cast<int>(matmul_in<T>(*engine, task));
}

template <class T>
int masked_outer(const std::string& isa, const MaskSide& side, int64_t batch, uintptr_t grad, uintptr_t x,
                 uintptr_t out, int num_threads) {
  const Engine* engine = find(isa);
  const OuterTask<T> task{side.view(), batch, values<T>(grad), values<T>(x), reinterpret_cast<T*>(out), num_threads};
  const py::gil_scoped_release released;
  return static_cast<int>(outer_in<T>(*engine, task));
}

}  // namespace
}  // namespace made_fast

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled engines of made_fast. Use made_fast.backends.cpp, which checks arguments.";
  made_fast::bind_sampler<float>(module, "SamplerF32");
  made_fast::bind_sampler<double>(module, "SamplerF64");
  py::class_<made_fast::MaskSide>(module, "MaskSide")
      .def(py::init<const made_fast::Int64Array&, const made_fast::Int64Array&, const made_fast::Int64Array&,
                    const made_fast::Int64Array&, const made_fast::Int64Array&,
                    const py::array_t<uint16_t, py::array::c_style>&, bool>(),
           py::arg("rows"), py::arg("columns"), py::arg("groups"), py::arg("longest_first"), py::arg("positions"),
           py::arg("bits"), py::arg("contiguous"));
  module.def("digest", &made_fast::digest);
  module.def("masked_matmul_f32", &made_fast::masked_matmul<float>);
  module.def("masked_matmul_f64", &made_fast::masked_matmul<double>);
  module.def("masked_outer_f32", &made_fast::masked_outer<float>);
  module.def("masked_outer_f64", &made_fast::masked_outer<double>);
  module.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const made_fast::Engine* engine : made_fast::usable_engines()) names.emplace_back(engine->name);
    return names;
  });
  module.def("has_bf16", [] { return made_fast::bf16_engine() != nullptr; });
  module.def("fma_rate", [](const std::string& isa, bool double_precision, int num_threads, int64_t repeats) {
    const made_fast::Engine* engine = made_fast::find(isa);
    const py::gil_scoped_release released;
    return (double_precision ? engine->fma_rate_f64 : engine->fma_rate_f32)(num_threads, repeats);
  });
  module.def("compiler", [] { return std::pair<std::string, std::string>(MADE_FAST_COMPILER, MADE_FAST_BUILD_TYPE); });
}
