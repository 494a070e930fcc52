// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/conv_epilogue/conv_epilogue.h"

namespace edgefold {
namespace {

// rows[i] lane j -> rows[j] lane i
inline void Transpose(float32x4_t rows[4]) {
  const float32x4x2_t a = vtrnq_f32(rows[0], rows[1]);
  const float32x4x2_t b = vtrnq_f32(rows[2], rows[3]);
  rows[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  rows[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  rows[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  rows[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

}  // namespace

void conv_epilogue_arm_neon(const ConvEpilogueArguments& e) {
  for (int64_t n = 0; n < e.channels; n += 4) {
    const int64_t lanes = e.channels - n < 4 ? e.channels - n : 4;
    float scales[4] = {};
    float biases[4] = {};
    for (int64_t j = 0; j < lanes; ++j) {
      scales[j] = e.x_scale * e.scales[n + j];
      biases[j] = e.bias[e.bias_is_scalar ? 0 : n + j];
    }
    const float32x4_t scale = vld1q_f32(scales);
    const float32x4_t bias = vld1q_f32(biases);
    const int32_t* acc = e.acc + n;
    float* y = e.y + n * e.channel_stride;
    int64_t i = 0;
    for (; i + 4 <= e.pixels; i += 4) {
      float32x4_t rows[4];
      for (int j = 0; j < 4; ++j) {
        const float32x4_t sums = vcvtq_f32_s32(vld1q_s32(acc + (i + j) * e.acc_stride));
        rows[j] = vaddq_f32(vmulq_f32(sums, scale), bias);
      }
      Transpose(rows);
      for (int64_t j = 0; j < lanes; ++j) vst1q_f32(y + j * e.channel_stride + i, rows[j]);
    }
    for (; i < e.pixels; ++i) {
      for (int64_t j = 0; j < lanes; ++j) {
        const float product = static_cast<float>(acc[i * e.acc_stride + j]) * scales[j];
        y[j * e.channel_stride + i] = product + biases[j];
      }
    }
  }
}

}  // namespace edgefold
