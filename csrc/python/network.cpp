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

#include "plan/finite.h"
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
  std::vector<std::vector<int32_t>> orders;  // places of z, where they are others
  std::vector<const int32_t*> places;
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
void look_at(Call<T>& call, const Networks& networks) {
  require(!networks.empty() && networks.size() <= kMostNetworks, "there must be 1 to 64 networks");
  for (const Network* network : networks) {
    call.views.push_back(&network->view());
    const int32_t* widths = network->view().widths;
    require(widths[0] == call.views[0]->widths[0] && widths[1] == call.views[0]->widths[1],
            "networks must read variables and a context of the same widths");
  }
  call.task.networks = call.views.data();
  call.task.num_networks = static_cast<int>(call.views.size());
}

// Where the z of a network is in x of the next one, which reads variable reads[i] as its i-th.
std::vector<int32_t> places_from(const int64_t* reads, int32_t features) {
  std::vector<int32_t> places(static_cast<size_t>(features), -1);
  for (int32_t i = 0; i < features; ++i) {
    require(inside(reads[i], 1, features) && places[static_cast<size_t>(reads[i])] < 0,
            "what a network reads must be a permutation");
    places[static_cast<size_t>(reads[i])] = i;
  }
  return places;
}

template <class T>
void describe(Call<T>& call, const Networks& networks, const Addresses& reads, int head, int64_t batch, int num_threads,
              int blocks_at_once) {
  look_at(call, networks);
  NetworkTask<T>& task = call.task;
  task.head = to_code<Head>(head);
  const bool is_multiplied = task.head == Head::softplus_scale || task.head == Head::softclip_scale;
  require(networks.size() == 1 || task.head == Head::affine || task.head == Head::flow || is_multiplied,
          "networks one after another must make affine transforms");
  for (const NetworkView* view : call.views) {
    const int32_t made = view->widths[view->num_values - 1], features = view->widths[0];
    const bool one = task.head == Head::bernoulli || task.head == Head::spin || task.head == Head::categorical;
    const bool fits = task.head == Head::parameters || made == (one ? 1 : 2) * features ||
                      (is_multiplied && made % 2 == 0 && made < 2 * features);  // the others are passed on
    require(fits, "the last operation must make what the head reads");
    require(task.head != Head::categorical || view->num_categorical > 0, "a head of categories must know them");
  }
  require(reads.size() == networks.size() && reads[0] == 0, "reads must be one for each network, of the first none");
  call.orders.resize(networks.size());
  call.places.resize(networks.size(), nullptr);
  for (size_t k = 1; k < reads.size(); ++k) {
    if (reads[k] == 0) continue;
    call.orders[k - 1] = places_from(at_address<const int64_t>(reads[k]), call.views[0]->widths[0]);
    call.places[k - 1] = call.orders[k - 1].data();
  }
  task.places = call.places.data();
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
  look_at(call, networks);
  return {network_values(call.task), rooms * network_room(call.task) + network_packed(call.task)};
}

// Numbers of a row that a head makes beside the total.
template <class T>
int64_t made_by(const NetworkTask<T>& task) {
  const NetworkView& last = *task.networks[task.num_networks - 1];
  return last.widths[task.head == Head::parameters ? last.num_values - 1 : 0];
}

// Whether numbers for all rows, x and the context or their gradients, and for all weights are finite; null: none.
template <class T>
bool are_finite(const NetworkTask<T>& task, const T* of_x, const T* of_context, const T* const* weights) {
  const int32_t* widths = task.networks[0]->widths;
  bool finite = all_finite(of_x, task.batch * widths[0]) && all_finite(of_context, task.batch * widths[1]);
  for (int k = 0; k < task.num_networks; ++k) {
    const NetworkView& network = *task.networks[k];
    for (int i = 0; i < network.num_terms && finite; ++i) {
      const NetworkTerm& term = network.terms[i];
      finite = all_finite(weights[term.weight], int64_t{term.rows} * term.columns);
    }
    for (int v = 2; v < network.num_values && finite; ++v) {
      const NetworkOp& op = network.ops[v - 2];
      finite = op.kind != Kind::affine || op.bias < 0 || all_finite(weights[op.bias], op.width);
    }
    weights += network.num_weights;
  }
  return finite;
}

// With `finite` it gives up, and says so, where a number that is read or made is not.
template <class T>
bool forward(const Networks& networks, const Addresses& reads, const std::string& isa, int head, double floor,
             int64_t batch, uintptr_t x, uintptr_t context, const Addresses& weights, uintptr_t values, uintptr_t room,
             uintptr_t out, uintptr_t total, bool keep, int num_threads, bool finite) {
  const Engine& engine = find_engine(isa);
  Call<T> call;
  describe(call, networks, reads, head, batch, num_threads, 1);
  hand_over(call, floor, weights, values, room, num_threads);
  NetworkTask<T>& task = call.task;
  task.x = at_address<const T>(x);
  task.context = at_address<const T>(context);
  task.keep = keep;
  task.out = at_address<T>(out);
  task.total = at_address<T>(total);
  const py::gil_scoped_release released;
  if (finite && !are_finite<T>(task, task.x, task.context, task.weights)) return false;
  if constexpr (sizeof(T) == 4) {
    engine.network_forward_f32(task);
  } else {
    engine.network_forward_f64(task);
  }
  return !finite || (all_finite(task.out, batch * made_by(task)) && all_finite(task.total, batch));
}

// With `finite` it says so where a gradient that is given or made is not.
template <class T>
bool backward(const Networks& networks, const Addresses& reads, const std::string& isa, int head, double floor,
              int64_t batch, const Addresses& weights, uintptr_t values, uintptr_t room, uintptr_t grad_out,
              uintptr_t grad_total, uintptr_t grad_x, uintptr_t grad_context, const Addresses& grad_weights,
              int num_threads, int blocks_at_once, bool finite) {
  const Engine& engine = find_engine(isa);
  Call<T> call;
  describe(call, networks, reads, head, batch, num_threads, blocks_at_once);
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
  if (finite && !(all_finite(task.grad_out, batch * made_by(task)) && all_finite(task.grad_total, batch))) return false;
  if constexpr (sizeof(T) == 4) {
    engine.network_backward_f32(task);
  } else {
    engine.network_backward_f64(task);
  }
  return !finite || are_finite<T>(task, task.grad_x, task.grad_context, task.grad_weights);
}

template <class T>
void bind_calls(py::module_& module, const std::string& ending) {
  module.def(("network_forward_" + ending).c_str(), &forward<T>, py::arg("networks"), py::arg("reads"), py::arg("isa"),
             py::arg("head"), py::arg("floor"), py::arg("batch"), py::arg("x"), py::arg("context"), py::arg("weights"),
             py::arg("values"), py::arg("room"), py::arg("out"), py::arg("total"), py::arg("keep"),
             py::arg("num_threads"), py::arg("finite"));
  module.def(("network_backward_" + ending).c_str(), &backward<T>, py::arg("networks"), py::arg("reads"),
             py::arg("isa"), py::arg("head"), py::arg("floor"), py::arg("batch"), py::arg("weights"), py::arg("values"),
             py::arg("room"), py::arg("grad_out"), py::arg("grad_total"), py::arg("grad_x"), py::arg("grad_context"),
             py::arg("grad_weights"), py::arg("num_threads"), py::arg("blocks_at_once"), py::arg("finite"));
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
