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

// Begins with some memory of a size.
void start(uint64_t (&state)[kDigestLanes], int64_t size) {
  for (int lane = 0; lane < kDigestLanes; ++lane)
    state[lane] ^= 0x9E3779B97F4A7C15u * static_cast<uint64_t>(lane + 1) ^ static_cast<uint64_t>(size);
}

uint64_t digest_of(const uint64_t (&state)[kDigestLanes]) {
  uint64_t whole = 0;
  for (const uint64_t lane : state) whole = fold(whole ^ lane, 0xD1B54A32D192ED03u);
  return whole;
}

// The digests of the lines of each of the parts [first, last). Every `parts`-th line of some memory is of one part,
// from its own on; where there are fewer lines than parts, a line is of several, so that every part has one of each
// memory.
class Digests {
 public:
  Digests(int64_t first, int64_t last, int64_t parts)
      : first_(first), parts_(parts), states_(static_cast<size_t>(last - first)) {}

  // Adds some memory, read from one end to the other.
  void add(uintptr_t address, int64_t size) {
    constexpr int64_t line = 1024;  // bytes
    const auto* bytes = reinterpret_cast<const unsigned char*>(address);
    const auto count = static_cast<int64_t>(states_.size());
    const int64_t lines = (size + line - 1) / line;
    for (Lanes& each : states_) start(each.state, size);
    const auto add_line = [&](int64_t part, int64_t number) {
      add_bytes(states_[static_cast<size_t>(part)].state, bytes + number * line, std::min(line, size - number * line));
    };
    if (lines < parts_) {
      for (int64_t part = 0; part < count && lines > 0; ++part) add_line(part, (first_ + part) % lines);
      return;
    }
    for (int64_t begin = first_; begin < lines; begin += parts_) {
      // The lines after these are far away: none of the processor's own guesses would fetch them.
      const auto* ahead = bytes + (begin + 2 * parts_) * line;
      if (begin + 2 * parts_ < lines)
        for (int64_t at = 0; at < line; at += 64) __builtin_prefetch(ahead + at);
      for (int64_t part = 0; part < count && begin + part < lines; ++part) add_line(part, begin + part);
    }
  }

  std::vector<uint64_t> found() const {
    std::vector<uint64_t> all;
    for (const Lanes& each : states_) all.push_back(digest_of(each.state));
    return all;
  }

 private:
  struct Lanes {
    uint64_t state[kDigestLanes] = {};
  };

  int64_t first_, parts_;
  std::vector<Lanes> states_;
};

// Of several pieces of memory the lines of each of the parts [first, last), a share of them by each thread.
std::vector<uint64_t> digest_parts(const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& sizes,
                                   int64_t first, int64_t last, int64_t parts, int num_threads) {
  require(addresses.size() == sizes.size(), "addresses must have their sizes");
  require(inside(first, last - first, parts), "parts must be some of them");
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(num_threads, last - first));
  std::vector<Digests> shares;
  for (int64_t share = 0; share < threads; ++share)
    shares.emplace_back(first + (last - first) * share / threads, first + (last - first) * (share + 1) / threads,
                        parts);
#pragma omp parallel for num_threads(static_cast<int>(threads)) if (threads > 1) schedule(static, 1)
  for (int64_t share = 0; share < threads; ++share)
    for (size_t i = 0; i < sizes.size(); ++i) shares[static_cast<size_t>(share)].add(addresses[i], sizes[i]);
  std::vector<uint64_t> found;
  for (const Digests& share : shares)
    for (const uint64_t each : share.found()) found.push_back(each);
  return found;
}

}  // namespace

uint64_t digest_memory(uintptr_t address, int64_t size) {
  uint64_t state[kDigestLanes] = {};
  start(state, size);
  add_bytes(state, reinterpret_cast<const unsigned char*>(address), size);
  return digest_of(state);
}

void bind_digest(pybind11::module_& module) {
  module.def("digest", &digest_memory, pybind11::arg("address"), pybind11::arg("size"));
  module.def("digest_parts", &digest_parts, pybind11::arg("addresses"), pybind11::arg("sizes"), pybind11::arg("first"),
             pybind11::arg("last"), pybind11::arg("parts"), pybind11::arg("num_threads") = 1);
}

}  // namespace made_fast
