// What is asked of the processor and its clock.
#pragma once

#include <ctime>

#include "engine/isa-inl.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Flushes denormal numbers to zero while it lives: they cost a hundred cycles each and mean nothing here.
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

// Keeps denormal numbers while it lives, where a FlushDenormals is alive.
class KeepDenormals {
 public:
#if defined(__SSE__)
  KeepDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040u); }
  ~KeepDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

inline double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
