#include "engine/dispatch.h"

namespace made_fast {

#define MADE_FAST_ENGINE(name, can_run) \
  namespace name {                      \
  extern const Engine engine;           \
  }
#include "engine/engines.def"
#undef MADE_FAST_ENGINE

#if defined(__x86_64__)
#define has(feature) (__builtin_cpu_supports(feature) != 0)

// The levels of x86-64; clang before 18 asks for features only.
#if defined(__clang__) && __clang_major__ < 18
static bool x86_64_v3() { return has("avx2") && has("fma") && has("bmi") && has("bmi2"); }
static bool x86_64_v4() {
  return x86_64_v3() && has("avx512f") && has("avx512bw") && has("avx512cd") && has("avx512dq") && has("avx512vl");
}
#else
static bool x86_64_v3() { return has("x86-64-v3"); }
[[maybe_unused]] static bool x86_64_v4() { return has("x86-64-v4"); }
#endif
#endif

// Those that this processor can run and that have, or have not, the draw in bf16.
static std::vector<const Engine*> find_engines(bool with_bf16) {
  std::vector<const Engine*> engines;
#define MADE_FAST_ENGINE(name, can_run) \
  if ((can_run) && (name::engine.draw_bf16 != nullptr) == with_bf16) engines.push_back(&name::engine);
#include "engine/engines.def"
#undef MADE_FAST_ENGINE
  return engines;
}

const Engine* bf16_engine() {
  static const std::vector<const Engine*> engines = find_engines(true);
  return engines.empty() ? nullptr : engines.front();
}

const std::vector<const Engine*>& usable_engines() {
  static const std::vector<const Engine*> engines = find_engines(false);
  return engines;
}

}  // namespace made_fast
