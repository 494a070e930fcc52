// SPDX-License-Identifier: Apache-2.0
#include "base/activation_at.h"
#include "kernels/gemv/gemv.h"

namespace edgefold {

void gemv_reference(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                    const Activations& a, int32_t* acc, int64_t acc_stride) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t c = 0; c < panel_count * kPanelColumns; ++c) {
      int32_t sum = 0;
      for (int64_t k = 0; k < matrix.k; ++k) {
        sum += ActivationAt(a, m, k) * WeightAt(matrix, k, first_panel * kPanelColumns + c);
      }
      acc[m * acc_stride + c] = sum;
    }
  }
}

}  // namespace edgefold
