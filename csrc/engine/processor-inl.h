// What is asked of the processor and its clock.
#pragma once

#include <cstdint>
#include <ctime>

#include "engine/isa-inl.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// How the processor takes denormal numbers: which of these bits are set.
#if defined(__SSE__)
constexpr uint64_t kFlush = 0x8040;  // of results, and of operands
inline uint64_t denormals() { return _mm_getcsr(); }
inline void set_denormals(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
constexpr uint64_t kFlush = uint64_t{1} << 24;  // of both
inline uint64_t denormals() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_denormals(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
constexpr uint64_t kFlush = 0;
inline uint64_t denormals() { return 0; }
inline void set_denormals(uint64_t) {}
#endif

// Flushes denormal numbers to zero while it lives: they cost a hundred cycles each and mean nothing here.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(denormals()) { set_denormals(saved_ | kFlush); }
  ~FlushDenormals() { set_denormals(saved_); }

 private:
  uint64_t saved_;
};

// Keeps denormal numbers while it lives, where a FlushDenormals is alive.
class KeepDenormals {
 public:
  KeepDenormals() : saved_(denormals()) { set_denormals(saved_ & ~kFlush); }
  ~KeepDenormals() { set_denormals(saved_); }

 private:
  uint64_t saved_;
};

inline double seconds() {
  timespec now;
#if defined(_WIN32)
  timespec_get(&now, TIME_UTC);
#else
  clock_gettime(CLOCK_MONOTONIC, &now);
#endif
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
