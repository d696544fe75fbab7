// The engine: sampler and masked matmuls. Compiled once per instruction set, each time into its own namespace.
#include "engine/engine.h"

#include "engine/draw-inl.h"
#include "engine/isa-inl.h"
#include "engine/masked-inl.h"
#include "engine/masked_outer-inl.h"
#include "engine/network-inl.h"
#include "engine/network_backward-inl.h"
#include "engine/peak-inl.h"

#define MADE_FAST_STRING_(x) #x
#define MADE_FAST_STRING(x) MADE_FAST_STRING_(x)

namespace made_fast {
namespace MADE_FAST_ISA {

extern const Engine engine;
#if defined(__AVX512BF16__)  // all else is done by the same instructions as before, and compiled there
const Engine engine = {MADE_FAST_STRING(MADE_FAST_ISA),
                       nullptr,
                       nullptr,
                       kSingleRows<float>,
                       0,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr,
                       &draw<float, true>};
#else
const Engine engine = {MADE_FAST_STRING(MADE_FAST_ISA),
                       &fma_rate<float>,
                       &fma_rate<double>,
                       kSingleRows<float>,
                       kSingleRows<double>,
                       &scratch_bytes<float>,
                       &scratch_bytes<double>,
                       &draw<float, false>,
                       &draw<double, false>,
                       nullptr,
                       &masked_matmul<float>,
                       &masked_matmul<double>,
                       &masked_outer<float>,
                       &masked_outer<double>,
                       &network_forward<float>,
                       &network_forward<double>,
                       &network_backward<float>,
                       &network_backward<double>};
#endif

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
