// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/gemm_float/gemm_float.h"

namespace edgefold {
namespace {

inline void Widen(int8x16_t weights, float32x4_t out[4]) {
  const int16x8_t low = vmovl_s8(vget_low_s8(weights));
  const int16x8_t high = vmovl_s8(vget_high_s8(weights));
  out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
  out[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
  out[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
  out[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
}

template <int kRows>
void Tile(const float* x, int64_t x_stride, int64_t k, const int8_t* panel, float* y,
          int64_t y_stride) {
  float32x4_t sums[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < 4; ++q) sums[r][q] = vdupq_n_f32(0.0f);
  }
  for (int64_t i = 0; i < k; i += 4) {
    const int8x16x4_t by_k = vld4q_s8(panel + i * 16);  // val[kk]: 16 columns
    for (int kk = 0; kk < 4 && i + kk < k; ++kk) {
      float32x4_t weights[4];
      Widen(by_k.val[kk], weights);
      for (int r = 0; r < kRows; ++r) {
        const float value = x[r * x_stride + i + kk];
        for (int q = 0; q < 4; ++q) sums[r][q] = vfmaq_n_f32(sums[r][q], weights[q], value);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < 4; ++q) vst1q_f32(y + r * y_stride + 4 * q, sums[r][q]);
  }
}

}  // namespace

void gemm_float_arm_neon(const float* x, int64_t x_stride, int64_t rows, int64_t k,
                         const int8_t* panel, float* y, int64_t y_stride) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4) {
    Tile<4>(x + m * x_stride, x_stride, k, panel, y + m * y_stride, y_stride);
  }
  for (; m < rows; ++m) {
    Tile<1>(x + m * x_stride, x_stride, k, panel, y + m * y_stride, y_stride);
  }
}

}  // namespace edgefold
