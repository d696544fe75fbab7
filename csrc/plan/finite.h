// Whether numbers are finite.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace made_fast {

// Whether none of some numbers, or of none (null), has an exponent of ones alone.
template <class T>
bool all_finite(const T* numbers, int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits ones = sizeof(T) == 4 ? static_cast<Bits>(0x7F800000u) : static_cast<Bits>(0x7FF0000000000000u);
  constexpr Bits lowest = ones & (~ones + 1);
  if (numbers == nullptr) return true;
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, numbers + i, sizeof bits);
    found |= (bits & ones) + lowest;  // reaches the highest bit if all of the exponent is set
  }
  return found >> (8 * sizeof(T) - 1) == 0;
}

}  // namespace made_fast
