// Whole networks forward and backward.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plan/network.h"
#include "python/bind.h"

namespace py = pybind11;

namespace made_fast {
namespace {

using Mask = py::array_t<bool, py::array::c_style>;
using Addresses = std::vector<uintptr_t>;

std::unique_ptr<Network> make_network(int32_t features, int32_t context_features, int32_t num_weights,
                                      const Int64Array& ops,
                                      const std::vector<std::vector<std::tuple<int32_t, int32_t, Mask>>>& terms) {
  NetworkSource source{features, context_features, num_weights, {}, {}};
  source.ops = to_rows<NetworkColumn>(ops, "ops", [](const NamedRow<NetworkColumn>& row) {
    return NetworkOp{to_code<Kind>(row[NetworkColumn::kind]),
                     row.narrow(NetworkColumn::left),
                     row.narrow(NetworkColumn::right),
                     to_code<Function>(row[NetworkColumn::function]),
                     row.narrow(NetworkColumn::width),
                     row.narrow(NetworkColumn::bias),
                     0,
                     0};
  });
  require(terms.size() == source.ops.size(), "terms must have a list for each operation");
  for (size_t i = 0; i < terms.size(); ++i) {
    source.ops[i].first_term = static_cast<int32_t>(source.terms.size());
    source.ops[i].num_terms = static_cast<int32_t>(terms[i].size());
    for (const auto& [value, weight, mask] : terms[i]) {
      require(mask.ndim() == 2, "masks must have two dimensions");
      source.terms.push_back(
          {value, weight, mask.shape(0), mask.shape(1), reinterpret_cast<const uint8_t*>(mask.data())});
    }
  }
  return std::make_unique<Network>(source);
}

template <class T>
std::vector<T*> pointers(const Network& network, const Addresses& addresses) {
  require(addresses.size() == static_cast<size_t>(network.view().num_weights),
          "weights must be as many as the network's");
  std::vector<T*> found;
  found.reserve(addresses.size());
  for (uintptr_t address : addresses) found.push_back(at_address<T>(address));
  return found;
}

// What both directions are handed.
template <class T>
NetworkTask<T> make_task(const Network& network, int head, double floor, int64_t batch,
                         const std::vector<const T*>& weights, uintptr_t values, uintptr_t room, int num_threads) {
  NetworkTask<T> task{};
  task.plan = network.view();
  task.head = to_code<Head>(head);
  task.floor = static_cast<T>(floor);
  task.batch = batch;
  task.weights = weights.data();
  task.num_threads = num_threads;
  task.values = at_address<T>(values);
  task.room = at_address<T>(room);
  task.packed = task.room + num_threads * network_room(task.plan);
  return task;
}

template <class T>
void forward(const Network& network, const std::string& isa, int head, double floor, int64_t batch, uintptr_t x,
             uintptr_t context, const Addresses& weights, uintptr_t values, uintptr_t room, uintptr_t out,
             uintptr_t total, bool keep, int num_threads) {
  const Engine& engine = find_engine(isa);
  const std::vector<const T*> of = pointers<const T>(network, weights);
  NetworkTask<T> task = make_task<T>(network, head, floor, batch, of, values, room, num_threads);
  task.x = at_address<const T>(x);
  task.context = at_address<const T>(context);
  task.keep = keep;
  task.out = at_address<T>(out);
  task.total = at_address<T>(total);
  const py::gil_scoped_release released;
  if constexpr (sizeof(T) == 4) {
    engine.network_forward_f32(task);
  } else {
    engine.network_forward_f64(task);
  }
}

template <class T>
void backward(const Network& network, const std::string& isa, int head, double floor, int64_t batch,
              const Addresses& weights, uintptr_t values, uintptr_t room, uintptr_t grad_out, uintptr_t grad_total,
              uintptr_t grad_x, uintptr_t grad_context, const Addresses& grad_weights) {
  const Engine& engine = find_engine(isa);
  const std::vector<const T*> of = pointers<const T>(network, weights);
  const std::vector<T*> to = pointers<T>(network, grad_weights);
  NetworkTask<T> task = make_task<T>(network, head, floor, batch, of, values, room, 1);
  task.grad_out = at_address<const T>(grad_out);
  task.grad_total = at_address<const T>(grad_total);
  task.grad_x = at_address<T>(grad_x);
  task.grad_context = at_address<T>(grad_context);
  task.grad_weights = to.data();
  const py::gil_scoped_release released;
  if constexpr (sizeof(T) == 4) {
    engine.network_backward_f32(task);
  } else {
    engine.network_backward_f64(task);
  }
}

template <class T>
void bind_calls(py::class_<Network>& kind, const std::string& ending) {
  kind.def(("forward_" + ending).c_str(), &forward<T>, py::arg("isa"), py::arg("head"), py::arg("floor"),
           py::arg("batch"), py::arg("x"), py::arg("context"), py::arg("weights"), py::arg("values"), py::arg("room"),
           py::arg("out"), py::arg("total"), py::arg("keep"), py::arg("num_threads"));
  kind.def(("backward_" + ending).c_str(), &backward<T>, py::arg("isa"), py::arg("head"), py::arg("floor"),
           py::arg("batch"), py::arg("weights"), py::arg("values"), py::arg("room"), py::arg("grad_out"),
           py::arg("grad_total"), py::arg("grad_x"), py::arg("grad_context"), py::arg("grad_weights"));
}

}  // namespace

void bind_networks(py::module_& module) {
  py::class_<Network> kind(module, "Network");
  kind.def(py::init(&make_network), py::kw_only(), py::arg("features"), py::arg("context_features"),
           py::arg("num_weights"), py::arg("ops"), py::arg("terms"))
      .def("num_values", [](const Network& network, int64_t blocks) { return network_values(network.view(), blocks); })
      .def("room",
           [](const Network& network, int num_threads) {
             const NetworkView& plan = network.view();
             return num_threads * network_room(plan) + std::max(plan.packed_forward, plan.packed_backward);
           })
      .def_property_readonly("macs", [](const Network& network) { return network.view().packed_forward; });
  bind_calls<float>(kind, "f32");
  bind_calls<double>(kind, "f64");
}

}  // namespace made_fast
