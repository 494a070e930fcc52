// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_float/gemm_float.h"

namespace edgefold {

void gemm_float_reference(const float* x, int64_t x_stride, int64_t rows, int64_t k,
                          const int8_t* panel, float* y, int64_t y_stride) {
  for (int64_t m = 0; m < rows; ++m) {
    for (int c = 0; c < 16; ++c) {
      float sum = 0.0f;
      for (int64_t i = 0; i < k; ++i) {
        const float weight = static_cast<float>(panel[i / 4 * 64 + c * 4 + i % 4]);
        sum += x[m * x_stride + i] * weight;
      }
      y[m * y_stride + c] = sum;
    }
  }
}

}  // namespace edgefold
