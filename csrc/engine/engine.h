// What each build of the engine can do, as functions that a caller of any instruction set can call.
#pragma once

#include <cstdint>

#include "plan/codes.h"
#include "plan/mask_view.h"
#include "plan/network.h"
#include "plan/plan.h"
#include "plan/request.h"

namespace made_fast {

struct Engine {
  const char* name;
  double (*fma_rate_f32)(int num_threads, int64_t repeats) = nullptr;  // multiply-adds a second, from registers
  double (*fma_rate_f64)(int num_threads, int64_t repeats) = nullptr;
  int64_t single_rows_f32 = 0, single_rows_f64 = 0;  // of a thread, that it draws one by one
  int64_t (*scratch_f32)(const Plan<float>&, int64_t num_rows, int num_threads, int rows_at_once) = nullptr;
  int64_t (*scratch_f64)(const Plan<double>&, int64_t num_rows, int num_threads, int rows_at_once) = nullptr;
  Status (*draw_f32)(const Plan<float>&, const Request<float>&) = nullptr;
  Status (*draw_f64)(const Plan<double>&, const Request<double>&) = nullptr;
  // Null without the instruction; a build that has it has nothing else but single_rows_f32, see engine.cpp.
  Status (*draw_bf16)(const Plan<float>&, const Request<float>&) = nullptr;
  Status (*masked_matmul_f32)(const MatmulTask<float>&) = nullptr;
  Status (*masked_matmul_f64)(const MatmulTask<double>&) = nullptr;
  Status (*masked_outer_f32)(const OuterTask<float>&) = nullptr;
  Status (*masked_outer_f64)(const OuterTask<double>&) = nullptr;
  Status (*network_forward_f32)(const NetworkTask<float>&) = nullptr;
  Status (*network_forward_f64)(const NetworkTask<double>&) = nullptr;
  Status (*network_backward_f32)(const NetworkTask<float>&) = nullptr;
  Status (*network_backward_f64)(const NetworkTask<double>&) = nullptr;
};

}  // namespace made_fast
