// The parts of a program as Python hands them over: made_fast/backends/cpp/arrays.py makes them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "plan/source.h"
#include "plan/transpose.h"
#include "python/bind.h"

namespace made_fast {

template <class T>
using Values = pybind11::array_t<T, pybind11::array::c_style>;
using MaskArray = pybind11::array_t<bool, pybind11::array::c_style>;

// A conditional of either precision.
struct ConditionalEntry {
  Code code;
  Encoding encoding;
  int32_t num_params, num_draws, size, components, units;
  double floor, scale, shift;
  uintptr_t native_draw;  // the address of its own draw, or 0

  template <class T>
  Conditional<T> as() const {
    using Own = void (*)(const T*, const float*, T*, int64_t, int64_t);
    return {code,
            encoding,
            num_params,
            num_draws,
            size,
            components,
            units,
            static_cast<T>(floor),
            static_cast<T>(scale),
            static_cast<T>(shift),
            reinterpret_cast<Own>(native_draw)};
  }
};

// An affine operation: see AffineSource.
struct AffineEntry {
  int64_t first_slot;
  pybind11::array weights, bias;
  Int64Array slots, needed, ready;
  pybind11::object mask;  // (num_rows, num_columns) bool, or None
};

// Affine operations with numbers of one type; owns the arrays that `sources` point to.
template <class T>
class AffineArrays {
 public:
  explicit AffineArrays(const std::vector<AffineEntry>& entries) {
    for (const AffineEntry& entry : entries) add(entry);
  }
  const std::vector<AffineSource<T>>& sources() const { return sources_; }

 private:
  void add(const AffineEntry& entry) {
    const auto weights = hold(entry.weights.cast<Values<T>>());
    require(weights.ndim() == 2, "weights must have shape (n, m)");
    const int64_t rows = weights.shape(0), columns = weights.shape(1);
    const auto bias = hold(entry.bias.cast<Values<T>>());
    require(bias.ndim() == 1 && bias.size() == rows, "bias must have shape (n,)");
    require(entry.slots.size() == columns, "slots must have shape (m,)");
    require(entry.needed.size() == rows && entry.ready.size() == rows, "needed and ready must have shape (n,)");
    AffineSource<T> source{};
    source.first_slot = entry.first_slot;
    source.num_rows = rows;
    source.num_columns = columns;
    source.weights = weights.data();
    source.transposed = transposed(weights.data(), rows, columns);
    source.bias = bias.data();
    source.slots = entry.slots.data();
    source.needed = entry.needed.data();
    source.ready = entry.ready.data();
    if (!entry.mask.is_none()) {
      const auto mask = hold(entry.mask.cast<MaskArray>());
      require(mask.ndim() == 2 && mask.shape(0) == rows && mask.shape(1) == columns, "mask must have shape (n, m)");
      source.mask = reinterpret_cast<const uint8_t*>(mask.data());
    }
    sources_.push_back(source);
  }

  const T* transposed(const T* weights, int64_t rows, int64_t columns) {
    transposed_.emplace_back(new T[static_cast<size_t>(rows * columns)]);
    transpose(weights, rows, columns, transposed_.back().get());
    return transposed_.back().get();
  }

  // A cast may have made another array.
  template <class Array>
  Array hold(Array array) {
    held_.push_back(array);
    return array;
  }

  std::vector<AffineSource<T>> sources_;
  std::vector<pybind11::object> held_;
  std::vector<std::unique_ptr<T[]>> transposed_;
};

}  // namespace made_fast
