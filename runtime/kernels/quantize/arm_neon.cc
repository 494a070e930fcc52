// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include <cmath>

#include "kernels/quantize/quantize.h"

namespace edgefold {
namespace {

// The larger of both; `b` where `a` is NaN.
inline float32x4_t Larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

float AbsMax(const QuantizeArguments& q, const float* x) {
  const bool stepped = q.steps != nullptr;
  float32x4_t largest = vdupq_n_f32(0.0f);
  int64_t k = 0;
  for (; k + 4 <= q.columns; k += 4) {
    float32x4_t magnitude = vabsq_f32(vld1q_f32(x + k));
    if (stepped) magnitude = vdivq_f32(magnitude, vld1q_f32(q.steps + k));
    largest = Larger(magnitude, largest);
  }
  float absmax = vmaxvq_f32(largest);
  for (; k < q.columns; ++k) {
    const float magnitude = std::fabs(x[k]) / (stepped ? q.steps[k] : 1.0f);
    if (magnitude > absmax) absmax = magnitude;
  }
  return absmax;
}

struct Range {
  float32x4_t divisor;
  float32x4_t low;
  float32x4_t high;

  // `steps` may be null.
  int32x4_t Codes(const float* x, const float* steps) const {
    const float32x4_t step = steps == nullptr ? vdupq_n_f32(1.0f) : vld1q_f32(steps);
    const float32x4_t value = Larger(vdivq_f32(vld1q_f32(x), vmulq_f32(divisor, step)), low);
    return vcvtq_s32_f32(vmulq_f32(vrndnq_f32(vminq_f32(value, high)), step));
  }
};

// Sixteen codes from x, which holds at least as many values.
inline uint8x16_t Sixteen(const Range& range, const float* x, const float* steps) {
  int16x4_t part[4];
  for (int i = 0; i < 4; ++i) {
    part[i] = vmovn_s32(range.Codes(x + i * 4, steps == nullptr ? nullptr : steps + i * 4));
  }
  const int16x8_t first = vcombine_s16(part[0], part[1]);
  const int16x8_t second = vcombine_s16(part[2], part[3]);
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}

void QuantizeRow(const QuantizeArguments& q, const float* x, const Range& range, uint8_t* codes) {
  const auto steps = [&q](int64_t k) { return q.steps == nullptr ? nullptr : q.steps + k; };
  int64_t k = 0;
  for (; k + 16 <= q.columns; k += 16) vst1q_u8(codes + k, Sixteen(range, x + k, steps(k)));
  for (; k < q.stride; k += 16) {
    float tail[16] = {};
    for (int64_t i = k; i < q.columns && i < k + 16; ++i) tail[i - k] = x[i];
    uint8_t last[16];
    vst1q_u8(last, Sixteen(range, tail, steps(k)));
    for (int64_t i = k; i < k + 16; ++i) codes[i] = i < q.columns ? last[i - k] : 0;
  }
}

int32_t SumUnsigned(const uint8_t* codes, int64_t stride) {
  uint32x4_t sums = vdupq_n_u32(0);
  for (int64_t k = 0; k < stride; k += 16) {
    sums = vpadalq_u16(sums, vpaddlq_u8(vld1q_u8(codes + k)));
  }
  return static_cast<int32_t>(vaddvq_u32(sums));
}

// Also the sums of each half group, where pair_sums is not null.
int32_t SumSigned(const uint8_t* codes, int64_t stride, int16_t* pair_sums) {
  int32_t total = 0;
  for (int64_t k = 0; k < stride; k += 16) {
    // Lanes: codes k % 4 < 2, then k % 4 >= 2, in turn.
    const int16x8_t pairs = vpaddlq_s8(vreinterpretq_s8_u8(vld1q_u8(codes + k)));
    const int16_t low = vaddvq_s16(vuzp1q_s16(pairs, vdupq_n_s16(0)));
    const int16_t high = vaddvq_s16(vuzp2q_s16(pairs, vdupq_n_s16(0)));
    if (pair_sums != nullptr) {
      *pair_sums++ = low;
      *pair_sums++ = high;
    }
    total += low + high;
  }
  return total;
}

}  // namespace

void quantize_arm_neon(const QuantizeArguments& q) {
  const float high = static_cast<float>(q.high);
  for (int64_t m = 0; m < q.rows; ++m) {
    const float* x = q.x + m * q.x_stride;
    uint8_t* codes = q.codes + m * q.stride;
    float scale = q.static_scale;
    if (scale == 0.0f) {
      const float absmax = AbsMax(q, x);
      scale = absmax > 1e-30f ? absmax / high : 0.0f;
    }
    q.row_scales[m] = scale;
    const float divisor = scale > 0.0f ? scale : INFINITY;  // codes 0 where there is no scale
    const Range range = {vdupq_n_f32(divisor), vdupq_n_f32(static_cast<float>(q.low)),
                         vdupq_n_f32(high)};
    QuantizeRow(q, x, range, codes);
    int16_t* pair_sums = q.pair_sums == nullptr ? nullptr : q.pair_sums + m * (q.stride / 8);
    q.sums[m] = q.low < 0 ? SumSigned(codes, q.stride, pair_sums) : SumUnsigned(codes, q.stride);
  }
}

}  // namespace edgefold
