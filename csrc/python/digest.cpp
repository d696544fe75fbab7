// A number that tells masks apart by their content.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "python/bind.h"

namespace made_fast {
namespace {

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

}  // namespace

void bind_digest(pybind11::module_& module) {
  module.def("digest", &digest, pybind11::arg("address"), pybind11::arg("size"));
}

}  // namespace made_fast
