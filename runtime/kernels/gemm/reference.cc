// SPDX-License-Identifier: Apache-2.0
#include "base/activation_at.h"
#include "kernels/gemm/gemm.h"

namespace edgefold {

void gemm_reference(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                    int32_t* acc, int64_t acc_stride) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t p = 0; p < panel_count; ++p) {
      const int8_t* panel = panels + p * units * kUnitCodes;
      for (int c = 0; c < kPanelColumns; ++c) {
        int32_t sum = 0;
        for (int64_t k = 0; k < units * kUnitDepth; ++k) {
          const int8_t weight =
              panel[k / kUnitDepth * kUnitCodes + c * kUnitDepth + k % kUnitDepth];
          sum += ActivationAt(a, m, k) * weight;
        }
        acc[m * acc_stride + p * kPanelColumns + c] = sum;
      }
    }
  }
}

}  // namespace edgefold
