// SPDX-License-Identifier: Apache-2.0
#include "kernels/epilogue/epilogue.h"

namespace edgefold {

void epilogue_reference(const EpilogueArguments& e) {
  for (int64_t m = 0; m < e.rows; ++m) {
    for (int64_t n = 0; n < e.columns; ++n) {
      const float scale = e.row_scales[m] * e.scales[n];
      const float product = static_cast<float>(e.acc[m * e.acc_stride + n]) * scale;
      e.y[m * e.y_stride + n] = product + e.bias[e.bias_is_scalar ? 0 : n];
    }
  }
}

}  // namespace edgefold
