// The engines of this build, and which of them this processor can run. The list is engines.def.
#pragma once

#include <vector>

#include "engine/engine.h"

namespace made_fast {

// Those that draw in fp32 and fp64, best first; those that this processor cannot run are left out.
const std::vector<const Engine*>& usable_engines();

// The engine that multiplies bf16 weights by the processor's own instruction, or null.
const Engine* bf16_engine();

}  // namespace made_fast
