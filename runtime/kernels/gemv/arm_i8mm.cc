// SPDX-License-Identifier: Apache-2.0
#include "base/arm_gemv.h"
#include "base/arm_i8mm_multiply.h"
#include "kernels/gemv/gemv.h"

namespace edgefold {

void gemv_arm_i8mm(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                   const Activations& a, int32_t* acc, int64_t acc_stride) {
  Gemv<MultiplyI8mm>(matrix, first_panel, panel_count, a, acc, acc_stride);
}

}  // namespace edgefold
