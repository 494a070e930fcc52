// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/epilogue/epilogue.h"

namespace edgefold {

void epilogue_arm_neon(const EpilogueArguments& e) {
  for (int64_t m = 0; m < e.rows; ++m) {
    const int32_t* acc = e.acc + m * e.acc_stride;
    float* y = e.y + m * e.y_stride;
    const float32x4_t row_scale = vdupq_n_f32(e.row_scales[m]);
    int64_t n = 0;
    for (; n + 4 <= e.columns; n += 4) {
      const float32x4_t scale = vmulq_f32(row_scale, vld1q_f32(e.scales + n));
      const float32x4_t bias = e.bias_is_scalar ? vdupq_n_f32(e.bias[0]) : vld1q_f32(e.bias + n);
      const float32x4_t product = vmulq_f32(vcvtq_f32_s32(vld1q_s32(acc + n)), scale);
      vst1q_f32(y + n, vaddq_f32(product, bias));
    }
    for (; n < e.columns; ++n) {
      const float scale = e.row_scales[m] * e.scales[n];
      const float product = static_cast<float>(acc[n]) * scale;
      y[n] = product + e.bias[e.bias_is_scalar ? 0 : n];
    }
  }
}

}  // namespace edgefold
