// SPDX-License-Identifier: Apache-2.0
#include "base/activation_at.h"
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {

void gemm_shift_reference(const PackedMatrix& matrix, int64_t panel, const Activations& a,
                          void* /*scratch*/, int32_t* acc, int64_t acc_stride) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int c = 0; c < kPanelColumns; ++c) {
      int32_t sum = 0;
      for (int64_t k = 0; k < matrix.k; ++k) {
        const uint8_t* selectors = matrix.GroupSelectors(panel, k / kGroupDepth);
        const int step = matrix.multiplier[SelectorOf(selectors, c)];
        const int code = CodeAt(matrix, k, panel * kPanelColumns + c);
        const int level = (code < matrix.lowest ? matrix.lowest : code) - matrix.zero;
        sum += ActivationAt(a, m, k) * level * step;
      }
      acc[m * acc_stride + c] = sum;
    }
  }
}

}  // namespace edgefold
