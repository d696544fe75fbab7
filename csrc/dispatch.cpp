#include "dispatch.h"

namespace made_fast {

namespace baseline {
extern const Engine engine;
}
#ifdef MADE_FAST_HAS_AVX2
namespace avx2 {
extern const Engine engine;
}
#endif
#ifdef MADE_FAST_HAS_AVX512
namespace avx512 {
extern const Engine engine;
}
#endif

#ifdef MADE_FAST_HAS_AVX512_BF16
namespace avx512_bf16 {
extern const Engine engine;
}
#endif

const Engine* bf16_engine() {
#ifdef MADE_FAST_HAS_AVX512_BF16
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16")) return &avx512_bf16::engine;
#endif
  return nullptr;
}

static std::vector<const Engine*> find_engines() {
  std::vector<const Engine*> engines;
#ifdef MADE_FAST_HAS_AVX512
  if (__builtin_cpu_supports("x86-64-v4")) engines.push_back(&avx512::engine);
#endif
#ifdef MADE_FAST_HAS_AVX2
  if (__builtin_cpu_supports("x86-64-v3")) engines.push_back(&avx2::engine);
#endif
  engines.push_back(&baseline::engine);
  return engines;
}

const std::vector<const Engine*>& usable_engines() {
  static const std::vector<const Engine*> engines = find_engines();
  return engines;
}

}  // namespace made_fast
