// The engines of this build, and which of them this processor can run.
#pragma once

#include <vector>

#include "plan.h"

namespace made_fast {

// Best first; those that this processor cannot run are left out.
const std::vector<const Engine*>& usable_engines();

// The engine that multiplies bf16 weights by the processor's own instruction, or null.
const Engine* bf16_engine();

}  // namespace made_fast
