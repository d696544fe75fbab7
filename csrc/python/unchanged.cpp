// Whether Python objects are still what they were. Asked before each call of a network, where it takes a fraction of
// the time that Python takes; the definition is made_fast/layers/unchanged.py.
#include <pybind11/pybind11.h>

#include <cstdint>
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

// The attributes and methods of a tensor that are asked for.
struct Names {
  py::object data_ptr = interned("data_ptr"), is_contiguous = interned("is_contiguous"), is_neg = interned("is_neg");
  py::object shape = interned("shape"), dtype = interned("dtype"), version = interned("_version");
  py::object nbytes = interned("nbytes");
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
    for (const py::handle each : tensors) {
      Memory memory = memory_of(each);
      memory.shape = keep(each.attr(names_.shape));
      memory.dtype = keep(each.attr(names_.dtype));
      tensors_.push_back(memory);
    }
    for (const py::handle each : contents) {
      Memory memory = memory_of(each);
      memory.size = each.attr(names_.nbytes).cast<int64_t>();
      memory.digest = digest_memory(memory.address, memory.size);
      contents_.push_back(memory);
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
      if (checked(PyObject_GetAttr(tensor, names_.version.ptr())).cast<int64_t>() != version) return false;
    for (const Memory& each : tensors_) {
      if (!is_there(each) || checked(PyObject_GetAttr(each.tensor, names_.dtype.ptr())).ptr() != each.dtype)
        return false;
      const py::object shape = checked(PyObject_GetAttr(each.tensor, names_.shape.ptr()));
      const int equal = PyObject_RichCompareBool(shape.ptr(), each.shape, Py_EQ);
      if (equal < 0) throw py::error_already_set();
      if (equal == 0) return false;
    }
    for (const Memory& each : contents_)
      if (!is_there(each) || digest_memory(each.address, each.size) != each.digest) return false;
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
  struct Memory {
    PyObject* tensor;
    uintptr_t address;
    PyObject *shape, *dtype;
    int64_t size;
    uint64_t digest;
  };

  PyObject* keep(py::object object) {
    owned_.push_back(std::move(object));
    return owned_.back().ptr();
  }

  Memory memory_of(py::handle tensor) {
    PyObject* kept = keep(py::reinterpret_borrow<py::object>(tensor));
    require(is_plain(kept), "tensors must be contiguous and no negative views");
    return {kept, address_of(kept), nullptr, nullptr, 0, 0};
  }

  uintptr_t address_of(PyObject* tensor) const {
    return checked(PyObject_CallMethodNoArgs(tensor, names_.data_ptr.ptr())).cast<uintptr_t>();
  }

  bool is_plain(PyObject* tensor) const {
    return checked(PyObject_CallMethodNoArgs(tensor, names_.is_contiguous.ptr())).ptr() == Py_True &&
           checked(PyObject_CallMethodNoArgs(tensor, names_.is_neg.ptr())).ptr() == Py_False;
  }

  bool is_there(const Memory& memory) const {
    return address_of(memory.tensor) == memory.address && is_plain(memory.tensor);
  }

  Names names_;
  std::vector<py::object> owned_;  // all objects that the others point to
  std::vector<Held> held_;
  std::vector<std::pair<PyObject*, Py_ssize_t>> sizes_;
  std::vector<std::pair<PyObject*, PyTypeObject*>> kinds_;
  std::vector<Memory> tensors_, contents_;
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
