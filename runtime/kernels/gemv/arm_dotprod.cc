// SPDX-License-Identifier: Apache-2.0
#include "base/arm_dotprod_multiply.h"
#include "base/arm_gemv.h"
#include "kernels/gemv/gemv.h"

namespace edgefold {

void gemv_arm_dotprod(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                      const Activations& a, int32_t* acc, int64_t acc_stride) {
  Gemv<MultiplyDotprod>(matrix, first_panel, panel_count, a, acc, acc_stride);
}

}  // namespace edgefold
