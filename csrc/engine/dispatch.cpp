#include "engine/dispatch.h"

namespace made_fast {

#define MADE_FAST_ENGINE(name, can_run) \
  namespace name {                      \
  extern const Engine engine;           \
  }
#include "engine/engines.def"
#undef MADE_FAST_ENGINE

#define has(feature) (__builtin_cpu_supports(feature) != 0)

// Those that this processor can run and that have, or have not, the draw in bf16.
static std::vector<const Engine*> find_engines(bool with_bf16) {
  std::vector<const Engine*> engines;
#define MADE_FAST_ENGINE(name, can_run) \
  if ((can_run) && (name::engine.draw_bf16 != nullptr) == with_bf16) engines.push_back(&name::engine);
#include "engine/engines.def"
#undef MADE_FAST_ENGINE
  return engines;
}
#undef has

const Engine* bf16_engine() {
  static const std::vector<const Engine*> engines = find_engines(true);
  return engines.empty() ? nullptr : engines.front();
}

const std::vector<const Engine*>& usable_engines() {
  static const std::vector<const Engine*> engines = find_engines(false);
  return engines;
}

}  // namespace made_fast
