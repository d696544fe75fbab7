// What the threads of a team agree on while they are in one masked matmul.
//
// The barriers are our own: a program with more threads than processors (a data loader, another pool) makes libgomp's
// threads sleep at every barrier, and waking one takes as long as the work between two of them.
#pragma once

#if !defined(_WIN32)
#include <sched.h>
#endif

#include <cstdint>

#include "engine/isa-inl.h"
#include "plan/plan.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) int __stdcall SwitchToThread(void);  // windows.h would define names of ours
#endif

namespace made_fast {
namespace MADE_FAST_ISA {

// Another thread may have the processor.
inline void give_way() {
#if defined(_WIN32)
  SwitchToThread();
#else
  sched_yield();
#endif
}

inline void relax() {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  // Called by each thread of a parallel region.
  struct Member {
    Team& team;
    int number, count;

    // The part of [0, total) that is this thread's.
    int64_t begin(int64_t total) const { return total * number / count; }
    int64_t end(int64_t total) const { return total * (number + 1) / count; }

    // The next item that nobody has taken since the last barrier.
    int64_t take() const { return __atomic_fetch_add(&team.next_, 1, __ATOMIC_RELAXED); }

    // Waits for all; what they wrote before can be read afterwards.
    void meet() const {
      if (count == 1) {
        team.next_ = 0;
        return;
      }
      const int round = __atomic_load_n(&team.round_, __ATOMIC_ACQUIRE);
      if (__atomic_add_fetch(&team.arrived_, 1, __ATOMIC_ACQ_REL) == count) {
        __atomic_store_n(&team.arrived_, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team.next_, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team.round_, round + 1, __ATOMIC_RELEASE);
        return;
      }
      for (int spins = 0; __atomic_load_n(&team.round_, __ATOMIC_ACQUIRE) == round; ++spins) {
        relax();
        if (spins >= kPatience) give_way();  // the others may have no processor to run on
      }
    }
  };

  Member member() {
#if defined(_OPENMP)
    return {*this, omp_get_thread_num(), omp_get_num_threads()};
#else
    return {*this, 0, 1};
#endif
  }

 private:
  static constexpr int kPatience = 4000;  // some tens of microseconds
  alignas(kAlign) int64_t next_ = 0;
  alignas(kAlign) int arrived_ = 0;
  alignas(kAlign) int round_ = 0;
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
