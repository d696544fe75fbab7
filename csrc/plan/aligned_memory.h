// Memory that starts on a cache line. Windows has no aligned_alloc, and a free of its own for what it has instead.
#pragma once

#include <cstddef>
#include <cstdlib>
#if defined(_WIN32)
#include <malloc.h>
#endif

#include "plan/plan.h"

namespace made_fast {

// Null without memory; `bytes` is rounded up to whole cache lines. Static: each build of the engine has its own copy.
static inline void* allocate_aligned(size_t bytes) {
  const size_t lines = (bytes + kAlign - 1) / kAlign * kAlign;
#if defined(_WIN32)
  return _aligned_malloc(lines, kAlign);
#else
  return std::aligned_alloc(kAlign, lines);
#endif
}

static inline void free_aligned(void* data) {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

}  // namespace made_fast
