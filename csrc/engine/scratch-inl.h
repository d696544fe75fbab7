// Memory for one call, kept for the next.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/isa-inl.h"
#include "plan/aligned_memory.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

// Under the sanitizer no larger one of an earlier call is used again: it would hide what is written behind the end.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExact = true;
#else
constexpr bool kExact = false;
#endif

// Scratch of one thread, kept for its next call: a fresh mapping would cost a page fault for every 4 KiB, each time.
class Scratch {
 public:
  ~Scratch() { free_aligned(data_); }
  void* get(int64_t bytes, bool poisoned) {
    if (bytes > size_ || kExact) {
      free_aligned(data_);
      data_ = allocate_aligned(static_cast<size_t>(bytes));
      size_ = data_ == nullptr ? 0 : bytes;
    }
    // What is not written must show: what is read too early gives nan, not a stale number.
    if (data_ != nullptr && poisoned) std::memset(data_, 0xff, static_cast<size_t>(bytes));
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};
static thread_local Scratch thread_scratch;
static thread_local Scratch team_scratch;  // what the team of a thread shares in a masked matmul

// Places in one allocation, one after the other, each on its own cache line.
class Places {
 public:
  int64_t add(int64_t bytes) {
    const int64_t at = size_;
    size_ += (bytes + kAlign - 1) / kAlign * kAlign;
    return at;
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
