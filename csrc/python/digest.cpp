// A number that tells masks apart by their content.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "python/bind.h"

namespace made_fast {
namespace {

// 64 bits that tell apart what lies in memory: each step folds the 128-bit product of two words, one of them mixed with
// what came before in its lane.
uint64_t fold(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr int kDigestLanes = 8;

// Adds bytes to the lanes of a digest.
void add_bytes(uint64_t (&state)[kDigestLanes], const unsigned char* bytes, int64_t size) {
  const auto step = [](uint64_t& lane, const unsigned char* at) {
    uint64_t a, b;
    std::memcpy(&a, at, 8);
    std::memcpy(&b, at + 8, 8);
    lane = fold(a ^ 0x2D358DCCAA6C78A5u, b ^ lane) + 0x8BB84B93962EACC9u;
  };
  int64_t i = 0;
  for (; i + 16 * kDigestLanes <= size; i += 16 * kDigestLanes)
    for (int lane = 0; lane < kDigestLanes; ++lane) step(state[lane], bytes + i + 16 * lane);
  for (; i < size; i += 16) {
    unsigned char rest[16] = {};
    std::memcpy(rest, bytes + i, static_cast<size_t>(std::min<int64_t>(16, size - i)));
    step(state[0], rest);
  }
}

// Adds every `parts`-th line of some memory, from line `part` on; all of it with one part.
void add_lines(uint64_t (&state)[kDigestLanes], uintptr_t address, int64_t size, int64_t part, int64_t parts) {
  constexpr int64_t line = 1024;  // bytes
  const auto* bytes = reinterpret_cast<const unsigned char*>(address);
  for (int lane = 0; lane < kDigestLanes; ++lane)
    state[lane] ^= 0x9E3779B97F4A7C15u * static_cast<uint64_t>(lane + 1) ^ static_cast<uint64_t>(size);
  if (parts == 1 || size <= line) return add_bytes(state, bytes, size);
  for (int64_t first = part * line; first < size; first += parts * line)
    add_bytes(state, bytes + first, std::min(line, size - first));
}

uint64_t digest_of(const uint64_t (&state)[kDigestLanes]) {
  uint64_t whole = 0;
  for (const uint64_t lane : state) whole = fold(whole ^ lane, 0xD1B54A32D192ED03u);
  return whole;
}

uint64_t digest(uintptr_t address, int64_t size) {
  uint64_t state[kDigestLanes] = {};
  add_lines(state, address, size, 0, 1);
  return digest_of(state);
}

// Of several pieces of memory the lines of each of the parts [first, last).
std::vector<uint64_t> digest_parts(const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& sizes,
                                   int64_t first, int64_t last, int64_t parts) {
  require(addresses.size() == sizes.size(), "addresses must have their sizes");
  require(inside(first, last - first, parts), "parts must be some of them");
  std::vector<uint64_t> found;
  for (int64_t part = first; part < last; ++part) {
    uint64_t state[kDigestLanes] = {};
    for (size_t i = 0; i < sizes.size(); ++i) add_lines(state, addresses[i], sizes[i], part, parts);
    found.push_back(digest_of(state));
  }
  return found;
}

}  // namespace

void bind_digest(pybind11::module_& module) {
  module.def("digest", &digest, pybind11::arg("address"), pybind11::arg("size"));
  module.def("digest_parts", &digest_parts, pybind11::arg("addresses"), pybind11::arg("sizes"), pybind11::arg("first"),
             pybind11::arg("last"), pybind11::arg("parts"));
}

}  // namespace made_fast
