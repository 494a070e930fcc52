// SPDX-License-Identifier: Apache-2.0
// Rows to levels and levels to results, whatever they are divided by: for the norms' arm_neon.cc.
#pragma once

#include <arm_neon.h>

#include "kernels/l1_norm/elements.h"

namespace edgefold {
namespace {

constexpr int64_t kStep = 8;  // columns

// The larger of both; `b` where `a` is NaN.
inline float32x4_t Larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

float AbsMax(const float* x, int64_t columns) {
  float32x4_t largest = vdupq_n_f32(0.0f);
  int64_t i = 0;
  for (; i + 4 <= columns; i += 4) largest = Larger(vabsq_f32(vld1q_f32(x + i)), largest);
  float most = vmaxvq_f32(largest);
  for (; i < columns; ++i) most = LargerMagnitude(x[i], most);
  return most;
}

inline int16x4_t FourLevels(const float* x, float factor) {
  const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x), factor);
  return vmovn_s32(vcvtnq_s32_f32(scaled));  // NaN becomes 0
}

inline int16x8_t Levels(const L1NormArguments& n, int64_t at, float factor) {
  if (n.x == nullptr) return vshll_n_s8(vld1_s8(n.x_codes + at), 7);
  return vcombine_s16(FourLevels(n.x + at, factor), FourLevels(n.x + at + 4, factor));
}

// Fills the scratch row, shows its levels to the statistics, and returns their sum.
template <typename Statistics>
int32_t Fill(const L1NormArguments& n, int64_t m, float factor, Statistics* statistics) {
  int32x4_t sums = vdupq_n_s32(0);
  int64_t i = 0;
  for (; i + kStep <= n.columns; i += kStep) {
    const int16x8_t levels = Levels(n, m * n.columns + i, factor);
    vst1q_s16(n.scratch + i, levels);
    sums = vpadalq_s16(sums, levels);
    statistics->Add(levels);
  }
  int32_t sum = vaddvq_s32(sums);
  for (; i < n.columns; ++i) {
    n.scratch[i] = Level(n, m, i, factor);
    sum += n.scratch[i];
    statistics->Add(n.scratch[i]);
  }
  return sum;
}

struct Output {
  const L1NormArguments& n;
  float scale;

  // Four differences to four floats, from column i.
  float32x4_t Affine(int16x4_t d, int64_t i) const {
    const float32x4_t factor = vmulq_n_f32(vld1q_f32(n.gamma + i), scale);
    const float32x4_t product = vmulq_f32(vcvtq_f32_s32(vmovl_s16(d)), factor);
    return vaddq_f32(product, vld1q_f32(n.beta + i));
  }

  int16x4_t Code(float32x4_t y) const {
    const float32x4_t most = vminq_f32(y, vdupq_n_f32(n.high));
    return vmovn_s32(vcvtnq_s32_f32(vmaxq_f32(most, vdupq_n_f32(-n.high))));
  }
};

void Write(const L1NormArguments& n, int64_t m, int32_t mean, float scale) {
  const Output output = {n, scale};
  const int16x8_t centre = vdupq_n_s16(static_cast<int16_t>(mean));
  int64_t i = 0;
  for (; i + kStep <= n.columns; i += kStep) {
    const int16x8_t d = vsubq_s16(vld1q_s16(n.scratch + i), centre);
    const float32x4_t first = output.Affine(vget_low_s16(d), i);
    const float32x4_t second = output.Affine(vget_high_s16(d), i + 4);
    if (n.y != nullptr) {
      vst1q_f32(n.y + m * n.columns + i, first);
      vst1q_f32(n.y + m * n.columns + i + 4, second);
    } else {
      int16x8_t codes = vcombine_s16(output.Code(first), output.Code(second));
      if (n.steps != nullptr) codes = vmulq_s16(codes, vld1q_s16(n.steps + i));
      vst1_s8(n.y_codes + m * n.columns + i, vmovn_s16(codes));
    }
  }
  for (; i < n.columns; ++i) Store(n, m, i, n.scratch[i] - mean, scale);
}

// `Statistics` sees a row's levels as they are made, and Scale(n, sum, mean, factor) is what the
// row is multiplied by; the scratch row holds it then.
template <typename Statistics>
void NormalizeRows(const L1NormArguments& n) {
  for (int64_t m = 0; m < n.rows; ++m) {
    const float factor =
        n.x == nullptr ? kL1NormByteFactor : Factor(AbsMax(n.x + m * n.columns, n.columns));
    Statistics statistics;
    const int32_t sum = Fill(n, m, factor, &statistics);
    const int32_t mean = Mean(n, sum);
    Write(n, m, mean, statistics.Scale(n, sum, mean, factor));
  }
}

}  // namespace
}  // namespace edgefold
