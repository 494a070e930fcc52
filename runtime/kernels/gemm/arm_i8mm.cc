// SPDX-License-Identifier: Apache-2.0
#include "base/arm_i8mm_multiply.h"
#include "kernels/gemm/gemm.h"

namespace edgefold {

void gemm_arm_i8mm(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                   int32_t* acc, int64_t acc_stride) {
  Gemm<MultiplyI8mm>(a, panels, panel_count, units, acc, acc_stride);
}

}  // namespace edgefold
