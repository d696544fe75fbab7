// What is zero in all rows of a tile is not multiplied: hidden units that no row of it lights, quads of pixels that no
// row of it sets. A product with zero changes no sum.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/scratch-inl.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Which places of some lists hold an item that is not zero in all rows. Lists are read from the front, ever further.
class Nonzero {
 public:
  struct Sizes {
    int64_t items, lists, longest;
  };
  struct Positions {
    int64_t zeros, seen, places, bytes;
    explicit Positions(const Sizes& sizes) {
      Places all;
      zeros = all.add(sizes.lists == 0 ? 0 : sizes.items);
      seen = all.add(2 * sizes.lists * int64_t(sizeof(int32_t)));
      places = all.add(sizes.lists * sizes.longest * int64_t(sizeof(int32_t)));
      bytes = all.size();
    }
  };

  Nonzero(const Sizes& sizes, char* scratch) : sizes_(sizes) {
    const Positions at(sizes);
    zeros_ = reinterpret_cast<uint8_t*>(scratch + at.zeros);
    seen_ = reinterpret_cast<int32_t*>(scratch + at.seen);
    places_ = reinterpret_cast<int32_t*>(scratch + at.places);
    std::memset(scratch, 0, static_cast<size_t>(at.places));
  }

  void is_zero(int64_t item) { zeros_[item] = 1; }

  // The places below `end` of a list of items, and how many they are.
  const int32_t* places_of(int64_t list, const int32_t* items, int32_t end, int64_t& count) {
    int32_t *seen = seen_ + 2 * list, *places = places_ + list * sizes_.longest;
    for (; seen[0] < end; ++seen[0])
      if (!zeros_[items[seen[0]]]) places[seen[1]++] = seen[0];
    count = seen[1];
    return places;
  }

 private:
  Sizes sizes_;
  uint8_t* zeros_;   // (items,)
  int32_t* seen_;    // (lists, 2): how much of a list has been read, and how many places were found
  int32_t* places_;  // (lists, longest)
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
