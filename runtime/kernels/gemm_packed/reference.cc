// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_packed/gemm_packed.h"

namespace edgefold {

void gemm_packed_reference(const GemmPackedArguments& g) {
  const int64_t first = g.first_panel * kPanelColumns;
  for (int64_t m = 0; m < g.a.rows; ++m) {
    const uint8_t* row = g.a.Row(m);
    for (int64_t c = 0; c < g.columns; ++c) {
      int32_t sum = 0;
      for (int64_t k = 0; k < g.matrix->k; ++k) {
        const int32_t x = g.a.is_unsigned ? row[k] : static_cast<int8_t>(row[k]);
        sum += x * WeightAt(*g.matrix, k, first + c);
      }
      const float scale = g.row_scales[m] * g.scales[c];
      g.y[m * g.y_stride + c] = static_cast<float>(sum) * scale + g.bias[g.bias_is_scalar ? 0 : c];
    }
  }
}

}  // namespace edgefold
