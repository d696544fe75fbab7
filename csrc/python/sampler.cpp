// A packed program and its draws.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "plan/pack.h"
#include "plan/single_rows.h"
#include "python/bind.h"
#include "python/program.h"

namespace py = pybind11;

namespace made_fast {
namespace {

// Decoding of made_fast/outputs/codes.py.
struct DecodingEntry {
  double temperature;
  bool greedy;
  int64_t top_k;
  double top_p;

  template <class T>
  Decoding<T> as() const {
    const double inverse = 1 / std::min(std::max(temperature, 1e-37), 1e37);  // that of made_fast/outputs/rules.py
    return {static_cast<T>(inverse), static_cast<T>(temperature), static_cast<T>(std::sqrt(temperature)), greedy, top_k,
            static_cast<T>(top_p)};
  }
};

DecodingEntry make_decoding(double temperature, bool greedy, int64_t top_k, double top_p) {
  require(temperature > 0 && std::isfinite(temperature), "temperature must be a positive number");
  require(top_k >= 0 && top_p > 0 && top_p <= 1, "top_k must be a count, and top_p lie in (0, 1]");
  return {temperature, greedy, top_k, top_p};
}

// Where the arrays of Conditions in made_fast/requests lie, 0 for those that are not there; and the flags in a row of
// support.
struct ConditionsEntry {
  uintptr_t given, observed, support, bounds, constrained;
  int64_t support_size;
  Sums sums;

  template <class T>
  Conditions<T> as() const {
    return {at_address<const T>(given),
            at_address<const uint8_t>(observed),
            at_address<const uint8_t>(support),
            at_address<const T>(bounds),
            at_address<const uint8_t>(constrained),
            support_size,
            sums};
  }
};

ConditionsEntry make_conditions(uintptr_t given, uintptr_t observed, uintptr_t support, uintptr_t bounds,
                                uintptr_t constrained, int64_t support_size, uintptr_t sum_pattern,
                                uintptr_t sum_lacking, uintptr_t sum_reaches, uintptr_t sum_bits, int64_t num_sums) {
  require(observed == 0 || given != 0, "what is observed must be given");
  require(constrained == 0 || support != 0 || bounds != 0, "what is constrained must have support or bounds");
  require(num_sums >= 0 && num_sums <= kMostSums, "num_sums must be a count of sums, 8 at most");
  require(
      num_sums == 0 || (constrained != 0 && sum_pattern != 0 && sum_lacking != 0 && sum_reaches != 0 && sum_bits != 0),
      "what is held to sums must be constrained, and have all that sums are made of");
  return {given,
          observed,
          support,
          bounds,
          constrained,
          support_size,
          {at_address<const int64_t>(sum_pattern), at_address<const int64_t>(sum_lacking),
           at_address<const int64_t>(sum_reaches), at_address<const uint8_t>(sum_bits), num_sums}};
}

Step to_step(const NamedRow<StepColumn>& row) {
  return {to_code<Kind>(row[StepColumn::kind]), row.narrow(StepColumn::first),
          row.narrow(StepColumn::count),        row.narrow(StepColumn::left),
          row.narrow(StepColumn::right),        to_code<Function>(row[StepColumn::function])};
}

Variable to_variable(const NamedRow<VariableColumn>& row) {
  return {row.narrow(VariableColumn::number),
          row.narrow(VariableColumn::noise_step),
          row.narrow(VariableColumn::param_slot),
          row.narrow(VariableColumn::x_slot),
          row.narrow(VariableColumn::conditional),
          row[VariableColumn::support],
          row[VariableColumn::table]};
}

template <class T>
class Sampler {
 public:
  Sampler(int64_t features, int64_t context_features, int64_t num_slots, int64_t x_slot, int64_t context_slot,
          bool in_place, const Int64Array& steps, const Int64Array& variables,
          const std::vector<ConditionalEntry>& conditionals, const Values<T>& tables, const Int64Array& context_units,
          const std::vector<AffineEntry>& affines, bool bf16, int64_t least_quads)
      : bf16_(bf16) {
    if (bf16 && (sizeof(T) != 4 || bf16_engine() == nullptr))
      throw std::invalid_argument("this processor or build has no bf16 engine");
    const AffineArrays<T> arrays(affines, tables);
    PlanSource<T> source{};
    source.shape = {features, context_features, num_slots, x_slot, context_slot, in_place};
    source.steps = to_rows<StepColumn>(steps, "steps", to_step);
    source.variables = to_rows<VariableColumn>(variables, "variables", to_variable);
    for (const ConditionalEntry& each : conditionals) source.conditionals.push_back(each.as<T>());
    source.table_size = tables.size();
    source.context_units = to_int32(context_units);
    source.affines = arrays.sources();
    source.in_pairs = bf16;
    source.least_quads = least_quads;
    packed_ = std::make_unique<PackedPlan<T>>(std::move(source), arrays.weights());
  }

  // The same with other weights: the addresses of the arrays of a WeightSource; null where they are not all finite.
  std::unique_ptr<Sampler> repacked(const std::vector<uintptr_t>& addresses, int num_threads) const {
    const std::vector<int64_t>& sizes = packed_->layout().array_sizes;
    require(addresses.size() == sizes.size(), "addresses must be those of all weights");
    WeightSource<T> weights;
    for (size_t i = 0; i < sizes.size(); ++i) weights.arrays.push_back(at_address<const T>(addresses[i]));
    for (const Packing& packing : packed_->layout().packings)
      for (int64_t array = packing.first_array; array < packing.bias(); ++array)
        require(sizes[static_cast<size_t>(array)] == 0 || addresses[static_cast<size_t>(array)] != 0,
                "weights of all terms must be there");
    require(sizes.back() == 0 || addresses.back() != 0, "tables must be there if they are read");
    const py::gil_scoped_release released;
    auto packed = packed_->repacked(weights, std::max(1, num_threads));
    return packed ? std::unique_ptr<Sampler>(new Sampler(bf16_, std::move(packed))) : nullptr;
  }

  // What it draws from; see PackedPlan::unpack.
  Values<T> weights() const {
    const std::vector<int64_t>& sizes = packed_->layout().array_sizes;
    Values<T> found(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
    packed_->unpack(found.mutable_data());
    return found;
  }

  int draw(const std::string& isa, int64_t num_rows, uint64_t first_row, uintptr_t rows, uint64_t seed,
           uintptr_t context, int64_t row_offset, int64_t rows_per_context, uintptr_t out, uintptr_t log_prob,
           uintptr_t log_weight, const ConditionsEntry& conditions, const DecodingEntry& decoding, int num_threads,
           int rows_at_once) const {
    const Engine& engine = bf16_ ? *bf16_engine() : find_engine(isa);
    require(num_rows >= 0 && inside(0, row_offset, kMostRows) && rows_per_context >= 1 && rows_per_context <= kMostRows,
            "rows must be counted from 0, contexts from 1");
    require(rows_at_once >= 0, "rows_at_once must be a count of rows");
    require(num_rows == 0 || conditions.constrained == 0 || holds_all(conditions),
            "what is constrained must have the flags and bounds of all variables");
    require(context != 0 || packed_->plan().num_context_units == 0, "context must be there if it is read");
    // Rows of a condition are cut into tiles, whether or not there are as many.
    const int64_t per_context = std::min(rows_per_context, std::max<int64_t>(1, row_offset + num_rows));
    const Request<T> request{num_rows,
                             first_row,
                             at_address<const int64_t>(rows),
                             seed,
                             at_address<const T>(context),
                             row_offset,
                             per_context,
                             at_address<T>(out),
                             at_address<T>(log_prob),
                             at_address<T>(log_weight),
                             conditions.as<T>(),
                             decoding.as<T>(),
                             num_threads,
                             rows_at_once};
    const py::gil_scoped_release released;
    const int threads = useful_threads(packed_->plan(), num_rows, num_threads);
    const int64_t most_single = sizeof(T) == 4 ? engine.single_rows_f32 : engine.single_rows_f64;
    const bool single = draws_single_rows(packed_->plan(), num_rows, threads, rows_at_once, most_single);
    const bool by_columns = single || conditions.observed != 0;  // a shared prefix is drawn like a row
    const Plan<T>& plan = by_columns ? packed_->plan_with_columns() : packed_->plan();
    if constexpr (sizeof(T) == 4) {
      return static_cast<int>((bf16_ ? engine.draw_bf16 : engine.draw_f32)(plan, request));
    } else {
      return static_cast<int>(engine.draw_f64(plan, request));
    }
  }

  int64_t scratch_bytes(const std::string& isa, int64_t num_rows, int num_threads, int rows_at_once) const {
    const Engine& engine = find_engine(isa);
    if constexpr (sizeof(T) == 4) {
      return engine.scratch_f32(packed_->plan(), num_rows, num_threads, rows_at_once);
    } else {
      return engine.scratch_f64(packed_->plan(), num_rows, num_threads, rows_at_once);
    }
  }

  int64_t panel_macs() const { return packed_->layout().panel_macs; }
  int64_t quads() const { return static_cast<int64_t>(packed_->layout().affine_quads.size()); }
  int64_t column_macs() const { return packed_->layout().column_size; }
  int64_t bytes() const { return packed_->bytes(); }

 private:
  static constexpr int64_t kMostRows = int64_t{1} << 62;

  // Whether there are flags for all finite variables, and bounds if one is real.
  bool holds_all(const ConditionsEntry& conditions) const {
    const Plan<T>& plan = packed_->plan();
    for (int64_t place = 0; place < plan.features; ++place) {
      const Variable& variable = plan.drawn[place];
      const int64_t size = plan.conditionals[variable.conditional].size;
      if (size == 0 ? conditions.bounds == 0
                    : conditions.support == 0 || !inside(variable.support, size, conditions.support_size))
        return false;
    }
    return true;
  }

  Sampler(bool bf16, std::unique_ptr<PackedPlan<T>> packed) : bf16_(bf16), packed_(std::move(packed)) {}

  bool bf16_;
  std::unique_ptr<PackedPlan<T>> packed_;
};

template <class T>
void bind_sampler(py::module_& module, const char* name) {
  py::class_<Sampler<T>>(module, name)
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, bool, const Int64Array&, const Int64Array&,
                    const std::vector<ConditionalEntry>&, const Values<T>&, const Int64Array&,
                    const std::vector<AffineEntry>&, bool, int64_t>(),
           py::kw_only(), py::arg("features"), py::arg("context_features"), py::arg("num_slots"), py::arg("x_slot"),
           py::arg("context_slot"), py::arg("in_place"), py::arg("steps"), py::arg("variables"),
           py::arg("conditionals"), py::arg("tables"), py::arg("context_units"), py::arg("affines"),
           py::arg("bf16") = false, py::arg("least_quads") = 1)
      .def("draw", &Sampler<T>::draw, py::arg("isa"), py::arg("num_rows"), py::arg("first_row"), py::arg("rows"),
           py::arg("seed"), py::arg("context"), py::arg("row_offset"), py::arg("rows_per_context"), py::arg("out"),
           py::arg("log_prob"), py::arg("log_weight"), py::arg("conditions"), py::arg("decoding"),
           py::arg("num_threads"), py::arg("rows_at_once"))
      .def("repacked", &Sampler<T>::repacked, py::arg("addresses"), py::arg("num_threads"))
      .def("weights", &Sampler<T>::weights)
      .def("scratch_bytes", &Sampler<T>::scratch_bytes, py::arg("isa"), py::arg("num_rows"), py::arg("num_threads"),
           py::arg("rows_at_once") = 0)
      .def_property_readonly("panel_macs", &Sampler<T>::panel_macs)
      .def_property_readonly("quads", &Sampler<T>::quads)
      .def_property_readonly("column_macs", &Sampler<T>::column_macs)
      .def_property_readonly("bytes", &Sampler<T>::bytes);
}

}  // namespace

void bind_samplers(py::module_& module) {
  py::class_<DecodingEntry>(module, "Decoding")
      .def(py::init(&make_decoding), py::kw_only(), py::arg("temperature") = 1.0, py::arg("greedy") = false,
           py::arg("top_k") = 0, py::arg("top_p") = 1.0);
  py::class_<ConditionsEntry>(module, "Conditions")
      .def(py::init(&make_conditions), py::kw_only(), py::arg("given") = 0, py::arg("observed") = 0,
           py::arg("support") = 0, py::arg("bounds") = 0, py::arg("constrained") = 0, py::arg("support_size") = 0,
           py::arg("sum_pattern") = 0, py::arg("sum_lacking") = 0, py::arg("sum_reaches") = 0, py::arg("sum_bits") = 0,
           py::arg("num_sums") = 0);
  bind_sampler<float>(module, "SamplerF32");
  bind_sampler<double>(module, "SamplerF64");
}

}  // namespace made_fast
