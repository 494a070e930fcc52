// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_windows/gemm_windows.h"

namespace edgefold {

void gemm_windows_reference(const GemmWindowsArguments& g) {
  const int64_t line = kUnitDepth * g.units;
  for (int64_t m = 0; m < g.rows; ++m) {
    for (int64_t p = 0; p < g.panel_count; ++p) {
      const int8_t* panel = g.panels + p * g.lines * line * kPanelColumns;
      for (int c = 0; c < kPanelColumns; ++c) {
        int32_t sum = 0;
        for (int64_t k = 0; k < g.lines * line; ++k) {
          const uint8_t code = g.codes[m * g.step + g.offsets[k / line] + k % line];
          const int32_t value = g.is_unsigned ? code : static_cast<int8_t>(code);
          sum += value * panel[k / kUnitDepth * kUnitCodes + c * kUnitDepth + k % kUnitDepth];
        }
        g.acc[m * g.acc_stride + p * kPanelColumns + c] = sum;
      }
    }
  }
}

}  // namespace edgefold
