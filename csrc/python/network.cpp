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
                                      const std::vector<std::vector<std::tuple<int32_t, int32_t, Mask>>>& terms,
                                      const Int64Array& categories) {
  NetworkSource source{features, context_features, num_weights, {}, {}, to_int32(categories)};
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

using Networks = std::vector<const Network*>;

// What all calls are handed, and what they point to.
template <class T>
struct Call {
  std::vector<const NetworkView*> views;
  std::vector<const T*> weights;
  std::vector<T*> grad_weights;
  NetworkTask<T> task{};
};

template <class T>
std::vector<T*> pointers(const Addresses& addresses, size_t count) {
  require(addresses.size() == count, "weights must be as many as those of the networks");
  std::vector<T*> found;
  found.reserve(addresses.size());
  for (uintptr_t address : addresses) found.push_back(at_address<T>(address));
  return found;
}

template <class T>
void describe(Call<T>& call, const Networks& networks, int head, int64_t batch, int num_threads, int blocks_at_once) {
  require(!networks.empty() && networks.size() <= kMostNetworks, "there must be 1 to 64 networks");
  for (const Network* network : networks) {
    call.views.push_back(&network->view());
    const int32_t* widths = network->view().widths;
    require(widths[0] == call.views[0]->widths[0] && widths[1] == call.views[0]->widths[1],
            "networks must read variables and a context of the same widths");
  }
  NetworkTask<T>& task = call.task;
  task.head = to_code<Head>(head);
  require(networks.size() == 1 || task.head == Head::affine || task.head == Head::flow,
          "networks one after another must make affine transforms");
  for (const NetworkView* view : call.views) {
    const int32_t made = view->widths[view->num_values - 1], features = view->widths[0];
    const bool two = task.head == Head::affine || task.head == Head::flow || task.head == Head::normal;
    require(task.head == Head::parameters || made == (two ? 2 : 1) * features,
            "the last operation must make what the head reads");
    require(task.head != Head::categorical || view->num_categorical > 0, "a head of categories must know them");
  }
  task.networks = call.views.data();
  task.num_networks = static_cast<int>(call.views.size());
  task.batch = batch;
  require(num_threads > 0 && blocks_at_once > 0 && blocks_at_once <= kMostBlocksAtOnce,
          "threads must be positive, and 1 to 64 blocks are taken at once");
  task.num_threads = num_threads;
  task.blocks_at_once = blocks_at_once;
}

template <class T>
void hand_over(Call<T>& call, double floor, const Addresses& weights, uintptr_t values, uintptr_t room, int rooms) {
  size_t count = 0;
  for (const NetworkView* view : call.views) count += static_cast<size_t>(view->num_weights);
  call.weights = pointers<const T>(weights, count);
  NetworkTask<T>& task = call.task;
  task.floor = static_cast<T>(floor);
  task.weights = call.weights.data();
  task.values = at_address<T>(values);
  task.room = at_address<T>(room);
  task.packed = task.room + rooms * network_room(task);
}

// Numbers that `values` must have for each block, and `room` for so many threads or blocks at once.
std::pair<int64_t, int64_t> sizes(const Networks& networks, int rooms) {
  Call<float> call;
  describe(call, networks, static_cast<int>(networks.size() == 1 ? Head::parameters : Head::affine), 1, 1, 1);
  return {network_values(call.task), rooms * network_room(call.task) + network_packed(call.task)};
}

template <class T>
void forward(const Networks& networks, const std::string& isa, int head, double floor, int64_t batch, uintptr_t x,
             uintptr_t context, const Addresses& weights, uintptr_t values, uintptr_t room, uintptr_t out,
             uintptr_t total, bool keep, int num_threads) {
  const Engine& engine = find_engine(isa);
  Call<T> call;
  describe(call, networks, head, batch, num_threads, 1);
  hand_over(call, floor, weights, values, room, num_threads);
  NetworkTask<T>& task = call.task;
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
void backward(const Networks& networks, const std::string& isa, int head, double floor, int64_t batch,
              const Addresses& weights, uintptr_t values, uintptr_t room, uintptr_t grad_out, uintptr_t grad_total,
              uintptr_t grad_x, uintptr_t grad_context, const Addresses& grad_weights, int num_threads,
              int blocks_at_once) {
  const Engine& engine = find_engine(isa);
  Call<T> call;
  describe(call, networks, head, batch, num_threads, blocks_at_once);
  require(blocks_at_once % kBlocksSummed == 0 || blocks_at_once >= network_blocks(batch),
          "blocks must be taken in fours, or all at once");
  hand_over(call, floor, weights, values, room, blocks_at_once);
  call.grad_weights = pointers<T>(grad_weights, call.weights.size());
  NetworkTask<T>& task = call.task;
  task.grad_out = at_address<const T>(grad_out);
  task.grad_total = at_address<const T>(grad_total);
  task.grad_x = at_address<T>(grad_x);
  task.grad_context = at_address<T>(grad_context);
  task.grad_weights = call.grad_weights.data();
  const py::gil_scoped_release released;
  if constexpr (sizeof(T) == 4) {
    engine.network_backward_f32(task);
  } else {
    engine.network_backward_f64(task);
  }
}

template <class T>
void bind_calls(py::module_& module, const std::string& ending) {
  module.def(("network_forward_" + ending).c_str(), &forward<T>, py::arg("networks"), py::arg("isa"), py::arg("head"),
             py::arg("floor"), py::arg("batch"), py::arg("x"), py::arg("context"), py::arg("weights"),
             py::arg("values"), py::arg("room"), py::arg("out"), py::arg("total"), py::arg("keep"),
             py::arg("num_threads"));
  module.def(("network_backward_" + ending).c_str(), &backward<T>, py::arg("networks"), py::arg("isa"), py::arg("head"),
             py::arg("floor"), py::arg("batch"), py::arg("weights"), py::arg("values"), py::arg("room"),
             py::arg("grad_out"), py::arg("grad_total"), py::arg("grad_x"), py::arg("grad_context"),
             py::arg("grad_weights"), py::arg("num_threads"), py::arg("blocks_at_once"));
}

}  // namespace

void bind_networks(py::module_& module) {
  py::class_<Network>(module, "Network")
      .def(py::init(&make_network), py::kw_only(), py::arg("features"), py::arg("context_features"),
           py::arg("num_weights"), py::arg("ops"), py::arg("terms"), py::arg("categories"))
      .def_property_readonly("macs", [](const Network& network) { return network.view().macs; });
  module.def("network_sizes", &sizes, py::arg("networks"), py::arg("rooms"));
  bind_calls<float>(module, "f32");
  bind_calls<double>(module, "f64");
}

}  // namespace made_fast
