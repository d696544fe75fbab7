// The compiled module: a table of contents.
#include <pybind11/pybind11.h>

#include "python/bind.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled engines of made_fast. Use made_fast.backends.cpp, which checks arguments.";
  made_fast::bind_build(module);      // what was compiled, and how
  made_fast::bind_tables(module);     // codes and columns that both languages know
  made_fast::bind_programs(module);   // parts of a program: Conditional, Affine
  made_fast::bind_samplers(module);   // SamplerF32, SamplerF64
  made_fast::bind_products(module);   // masked products
  made_fast::bind_networks(module);   // whole networks, forward and backward
  made_fast::bind_digest(module);     // the content of memory as a number
  made_fast::bind_unchanged(module);  // whether objects are what they were
}
