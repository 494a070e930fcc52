// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_wide/gemm_wide.h"

namespace edgefold {

void gemm_wide_reference(const GemmWideArguments& g) {
  for (int64_t m = 0; m < g.rows; ++m) {
    for (int64_t p = 0; p < g.panel_count; ++p) {
      const int16_t* panel = g.panels + p * g.pairs * 2 * kPanelColumns;
      for (int c = 0; c < kPanelColumns; ++c) {
        int32_t sum = 0;
        for (int64_t k = 0; k < 2 * g.pairs; ++k) {
          sum += g.codes[m * g.stride + k] * panel[k / 2 * 2 * kPanelColumns + c * 2 + k % 2];
        }
        g.acc[m * g.acc_stride + p * kPanelColumns + c] = sum;
      }
    }
  }
}

}  // namespace edgefold
