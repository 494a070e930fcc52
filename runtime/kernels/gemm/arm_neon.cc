// SPDX-License-Identifier: Apache-2.0
#include "base/arm_neon_multiply.h"
#include "kernels/gemm/gemm.h"

namespace edgefold {

void gemm_arm_neon(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                   int32_t* acc, int64_t acc_stride) {
  Gemm<MultiplyNeon>(a, panels, panel_count, units, acc, acc_stride);
}

}  // namespace edgefold
