// The parts of a program as Python hands them over: made_fast/backends/cpp/arrays.py makes them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "plan/source.h"
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

// An affine operation: see AffineSource. Its weights are those of each term, (height, width).
struct AffineEntry {
  int64_t first_slot;
  std::vector<pybind11::array> weights;
  pybind11::object bias;  // (height,), or None
  Int64Array rows, columns, slots, needed, ready;
  pybind11::object mask;  // (num_rows, num_columns) bool, or None
};

// Affine operations with numbers of one type; owns the arrays that `sources` and `weights` point to.
template <class T>
class AffineArrays {
 public:
  AffineArrays(const std::vector<AffineEntry>& entries, const Values<T>& tables) {
    for (const AffineEntry& entry : entries) add(entry);
    weights_.arrays.push_back(hold(tables).data());
  }
  const std::vector<AffineSource>& sources() const { return sources_; }
  const WeightSource<T>& weights() const { return weights_; }

 private:
  void add(const AffineEntry& entry) {
    AffineSource source{};
    for (const pybind11::array& each : entry.weights) {
      const auto weights = hold(each.cast<Values<T>>());
      require(weights.ndim() == 2, "weights must have shape (n, m)");
      require(source.widths.empty() || weights.shape(0) == source.height, "weights of all terms must have n rows");
      source.height = weights.shape(0);
      source.widths.push_back(weights.shape(1));
      weights_.arrays.push_back(weights.data());
    }
    weights_.arrays.push_back(nullptr);
    if (!entry.bias.is_none()) {
      const auto bias = hold(entry.bias.cast<Values<T>>());
      require(bias.ndim() == 1 && bias.size() == source.height, "bias must have shape (n,)");
      weights_.arrays.back() = bias.data();
    }
    const int64_t rows = entry.rows.size(), columns = entry.columns.size();
    require(entry.slots.size() == columns, "slots must have shape (m,)");
    require(entry.needed.size() == rows && entry.ready.size() == rows, "needed and ready must have shape (n,)");
    source.first_slot = entry.first_slot;
    source.num_rows = rows;
    source.num_columns = columns;
    source.rows = entry.rows.data();
    source.columns = entry.columns.data();
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

  // A cast may have made another array.
  template <class Array>
  Array hold(Array array) {
    held_.push_back(array);
    return array;
  }

  std::vector<AffineSource> sources_;
  WeightSource<T> weights_;
  std::vector<pybind11::object> held_;
};

}  // namespace made_fast
