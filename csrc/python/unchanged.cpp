// Whether Python objects are still what they were. Asked before each call of a network, where it takes a fraction of
// the time that Python takes; the definition is made_fast/layers/unchanged.py.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "python/bind.h"

namespace py = pybind11;

namespace made_fast {
namespace {

py::object interned(const char* name) { return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name)); }

py::object checked(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// How an object of another library says where its numbers lie, in one call: the table of functions of DLPack 1, whose
// layout never changes within a major version. Source: https://github.com/dmlc/dlpack, include/dlpack/dlpack.h.
struct DLTensor {
  void* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLPackExchangeAPI {
  uint32_t major, minor;
  void* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*tensor_from_object)(void* object, DLTensor* out);  // may be null
  void* current_stream;
};
using TensorFromObject = int (*)(void*, DLTensor*);

// That of torch's tensors; null where torch has none that is known here.
TensorFromObject tensor_from_object(const py::object& tensor_type) {
  const py::object capsule = py::getattr(tensor_type, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* api = static_cast<DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return api->major == 1 ? api->tensor_from_object : nullptr;
}

constexpr int kMostDims = 8;

// Where the numbers of a tensor lie, how many, and of which kind.
struct Memory {
  uintptr_t address = 0;
  int64_t kind[2] = {};  // of its numbers, and their device
  int32_t ndim = 0;
  int64_t shape[kMostDims], strides[kMostDims];

  bool is_contiguous() const {
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; stride *= shape[i], --i) {
      if (shape[i] == 0) return true;
      if (shape[i] != 1 && strides[i] != stride) return false;
    }
    return true;
  }

  bool operator==(const Memory& other) const {
    bool equal = address == other.address && kind[0] == other.kind[0] && kind[1] == other.kind[1] && ndim == other.ndim;
    for (int i = 0; equal && i < ndim; ++i) equal = shape[i] == other.shape[i] && strides[i] == other.strides[i];
    return equal;
  }
};

// Reads tensors: by one call where torch offers it, by its methods elsewhere.
class Reader {
 public:
  Reader() : type_(py::module_::import("torch").attr("Tensor")), from_object_(tensor_from_object(type_)) {}

  // The class of tensors.
  const py::object& type() const { return type_; }

  // False where a tensor has no numbers that can be read.
  bool read(PyObject* tensor, Memory* memory) const {
    if (from_object_ == nullptr) return read_by_methods(tensor, memory);
    DLTensor found;
    if (from_object_(tensor, &found) != 0) {
      PyErr_Clear();
      return false;
    }
    if (found.ndim > kMostDims || found.device_type != kCPU) return false;
    memory->address = reinterpret_cast<uintptr_t>(found.data) + found.byte_offset;
    memory->kind[0] = found.code | found.bits << 8 | found.lanes << 16;
    memory->ndim = found.ndim;
    std::copy_n(found.shape, found.ndim, memory->shape);
    std::copy_n(found.strides, found.ndim, memory->strides);
    return true;
  }

  // Whether the signs of its numbers are to be turned round.
  bool is_neg(PyObject* tensor) const {
    return checked(PyObject_Vectorcall(is_neg_.ptr(), &tensor, 1, nullptr)).ptr() != Py_False;
  }

  int64_t version(PyObject* tensor) const { return checked(PyObject_GetAttr(tensor, version_.ptr())).cast<int64_t>(); }

 private:
  static constexpr int32_t kCPU = 1;  // of DLPack

  static py::object called(PyObject* tensor, const py::object& name) {
    return checked(PyObject_CallMethodNoArgs(tensor, name.ptr()));
  }

  bool read_by_methods(PyObject* tensor, Memory* memory) const {
    const auto shape = py::tuple(called(tensor, size_)), strides = py::tuple(called(tensor, stride_));
    if (shape.size() > kMostDims) return false;
    memory->address = called(tensor, data_ptr_).cast<uintptr_t>();
    memory->kind[0] = reinterpret_cast<intptr_t>(checked(PyObject_GetAttr(tensor, dtype_.ptr())).ptr());
    memory->kind[1] = called(tensor, device_).cast<int64_t>();
    memory->ndim = static_cast<int32_t>(shape.size());
    for (int i = 0; i < memory->ndim; ++i) {
      memory->shape[i] = shape[i].cast<int64_t>();
      memory->strides[i] = strides[i].cast<int64_t>();
    }
    return true;
  }

  py::object type_;
  TensorFromObject from_object_;
  py::object data_ptr_ = interned("data_ptr"), size_ = interned("size"), stride_ = interned("stride");
  py::object dtype_ = interned("dtype"), device_ = interned("get_device");
  py::object is_neg_ = type_.attr("is_neg");  // looked up once
  py::object version_ = interned("_version");
};

class Unchanged {
 public:
  Unchanged(const py::list& held, const py::list& sizes, const py::list& kinds, const py::list& tensors,
            const py::list& contents, const py::list& versions) {
    for (const py::handle each : held) {
      const auto row = each.cast<py::tuple>();
      held_.push_back({keep(row[0].cast<py::dict>()), keep(row[1]), keep(row[2])});
    }
    for (const py::handle each : sizes) {
      const auto row = each.cast<py::tuple>();
      sizes_.push_back({keep(row[0].cast<py::dict>()), row[1].cast<Py_ssize_t>()});
    }
    for (const py::handle each : kinds) {
      const auto row = each.cast<py::tuple>();
      keep(row[1]);
      kinds_.push_back({keep(row[0]), reinterpret_cast<PyTypeObject*>(row[1].ptr())});
    }
    for (const py::handle each : tensors) tensors_.push_back(looked_at(each));
    for (const py::handle each : contents) {
      Contents found{looked_at(each), each.attr("nbytes").cast<int64_t>(), 0};
      found.digest = digest_memory(found.of.memory.address, found.size);
      contents_.push_back(found);
    }
    for (const py::handle each : versions) {
      const auto row = each.cast<py::tuple>();
      versions_.push_back({keep(row[0]), row[1].cast<int64_t>()});
    }
  }

  bool same() const {
    for (const Held& each : held_) {
      PyObject* found = PyDict_GetItemWithError(each.dict, each.key);
      if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
      if ((found == nullptr ? Py_None : found) != each.value) return false;
    }
    for (const auto& [dict, size] : sizes_)
      if (PyDict_Size(dict) != size) return false;
    for (const auto& [object, kind] : kinds_)
      if (Py_TYPE(object) != kind) return false;
    for (const auto& [tensor, version] : versions_)
      if (reader_.version(tensor) != version) return false;
    for (const Looked& each : tensors_)
      if (!is_there(each)) return false;
    for (const Contents& each : contents_)
      if (!is_there(each.of) || digest_memory(each.of.memory.address, each.size) != each.digest) return false;
    return true;
  }

  int traverse(visitproc visit, void* arg) const {
    for (const py::object& each : owned_) Py_VISIT(each.ptr());
    return 0;
  }

  void clear() {
    held_.clear(), sizes_.clear(), kinds_.clear(), tensors_.clear(), contents_.clear(), versions_.clear();
    std::vector<py::object>().swap(owned_);
  }

 private:
  struct Held {
    PyObject *dict, *key, *value;
  };
  struct Looked {
    PyObject* tensor;
    Memory memory;
  };
  struct Contents {
    Looked of;
    int64_t size;
    uint64_t digest;
  };

  PyObject* keep(py::object object) {
    owned_.push_back(std::move(object));
    return owned_.back().ptr();
  }

  Looked looked_at(py::handle tensor) {
    if (!py::isinstance(tensor, reader_.type())) throw py::type_error("tensors must be those of torch");
    Looked found{keep(py::reinterpret_borrow<py::object>(tensor)), {}};
    require(reader_.read(found.tensor, &found.memory) && found.memory.is_contiguous() && !reader_.is_neg(found.tensor),
            "tensors must be contiguous and no negative views, on the CPU");
    return found;
  }

  bool is_there(const Looked& looked) const {
    Memory now;
    return reader_.read(looked.tensor, &now) && now == looked.memory && !reader_.is_neg(looked.tensor);
  }

  Reader reader_;
  std::vector<py::object> owned_;  // all objects that the others point to
  std::vector<Held> held_;
  std::vector<std::pair<PyObject*, Py_ssize_t>> sizes_;
  std::vector<std::pair<PyObject*, PyTypeObject*>> kinds_;
  std::vector<Looked> tensors_;
  std::vector<Contents> contents_;
  std::vector<std::pair<PyObject*, int64_t>> versions_;
};

// The object in a Python object; null until its constructor has ended, when the collector may already look at it.
Unchanged* constructed_in(PyObject* self) {
  const bool constructed = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().holder_constructed();
  return constructed ? py::cast<Unchanged*>(py::handle(self)) : nullptr;
}

// A module may hold what watches it: the collector of circles must see through it.
void let_collect(PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Unchanged* unchanged = constructed_in(self);
    return unchanged == nullptr ? 0 : unchanged->traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    if (Unchanged* unchanged = constructed_in(self)) unchanged->clear();
    return 0;
  };
}

}  // namespace

void bind_unchanged(py::module_& module) {
  py::class_<Unchanged>(module, "Unchanged", py::custom_type_setup(&let_collect))
      .def(py::init<const py::list&, const py::list&, const py::list&, const py::list&, const py::list&,
                    const py::list&>(),
           py::arg("held"), py::arg("sizes"), py::arg("kinds"), py::arg("tensors"), py::arg("contents"),
           py::arg("versions"))
      .def("same", &Unchanged::same);
}

}  // namespace made_fast
