// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_wide/gemm_wide.h"

namespace edgefold {

void gemm_wide_reference(const GemmWideArguments& g) {
  const int64_t line = 2 * g.pairs;
  for (int64_t m = 0; m < g.rows; ++m) {
    for (int64_t p = 0; p < g.panel_count; ++p) {
      const int16_t* panel = g.panels + p * g.lines * line * kPanelColumns;
      for (int c = 0; c < kPanelColumns; ++c) {
        int32_t sum = 0;
        for (int64_t k = 0; k < g.lines * line; ++k) {
          const int16_t code = g.codes[m * g.stride + g.offsets[k / line] + k % line];
          sum += code * panel[k / 2 * 2 * kPanelColumns + c * 2 + k % 2];
        }
        g.acc[m * g.acc_stride + p * kPanelColumns + c] = sum;
      }
    }
  }
}

}  // namespace edgefold
