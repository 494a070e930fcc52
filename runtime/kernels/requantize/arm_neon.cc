// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include <cstring>

#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: four registers, one store of codes

// A comparison with NaN is false.
inline float32x4_t Clip(float32x4_t value, float32x4_t low, float32x4_t high) {
  const float32x4_t raised = vbslq_f32(vcgtq_f32(value, low), value, low);
  return vbslq_f32(vcltq_f32(raised, high), raised, high);
}

// Sixteen codes in [-127, 255] from 32-bit lanes: their low bytes.
inline uint8x16_t Pack(const int32x4_t codes[4]) {
  const int16x8_t first = vcombine_s16(vmovn_s32(codes[0]), vmovn_s32(codes[1]));
  const int16x8_t second = vcombine_s16(vmovn_s32(codes[2]), vmovn_s32(codes[3]));
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}

class Columns {
 public:
  // Channels n .. n + 15.
  Columns(const RequantizeArguments& r, int64_t n)
      : r_(r),
        n_(n),
        clip_low_(vdupq_n_f32(r.clip_low)),
        clip_high_(vdupq_n_f32(r.clip_high)),
        scale_(vdupq_n_f32(r.y_scale)),
        reciprocal_(vdupq_n_f32(1.0f / r.y_scale)),
        low_(vdupq_n_f32(static_cast<float>(r.range.low) * r.y_scale)),
        high_(vdupq_n_f32(static_cast<float>(r.range.high) * r.y_scale)),
        residual_scale_(vdupq_n_f32(r.residual_scale)) {}

  // Pixel i, whose residual codes and results lie at `residual` and `y`.
  void Pixel(int64_t i, const uint8_t* residual, uint8_t* y) const {
    float32x4_t values[4];
    for (int q = 0; q < 4; ++q) {
      values[q] = Value(i * r_.stride + n_ + 4 * q, n_ + 4 * q);
      if (r_.place == Residual::kBeforeActivation) values[q] = Add(values[q], residual + 4 * q);
      values[q] = Clip(values[q], clip_low_, clip_high_);
      if (r_.place == Residual::kAfterActivation) values[q] = Add(values[q], residual + 4 * q);
    }
    if (r_.range.is_float()) {
      for (int q = 0; q < 4; ++q) vst1q_f32(reinterpret_cast<float*>(y) + 4 * q, values[q]);
      return;
    }
    int32x4_t codes[4];
    for (int q = 0; q < 4; ++q) {
      codes[q] = Code(values[q]);
    }
    vst1q_u8(y, Pack(codes));
  }

 private:
  float32x4_t Value(int64_t at, int64_t n) const {
    if (r_.sums == nullptr) return vld1q_f32(r_.values + at);
    const float32x4_t sums = vcvtq_f32_s32(vld1q_s32(r_.sums + at));
    return vaddq_f32(vmulq_f32(sums, vld1q_f32(r_.scales + n)), vld1q_f32(r_.bias + n));
  }

  // The integer that the quotient rounds to, as in x86_avx2.cc.
  int32x4_t Code(float32x4_t value) const {
    value = Clip(value, low_, high_);
    const float32x4_t quotient = vmulq_f32(value, reciprocal_);
    const float32x4_t remainder = vfmsq_f32(value, quotient, scale_);
    return vcvtnq_s32_f32(vfmaq_f32(quotient, remainder, reciprocal_));
  }

  float32x4_t Add(float32x4_t value, const uint8_t* residual) const {
    uint32_t four;
    std::memcpy(&four, residual, sizeof four);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    const int16x8_t words = r_.residual_is_unsigned ? vreinterpretq_s16_u16(vmovl_u8(bytes))
                                                    : vmovl_s8(vreinterpret_s8_u8(bytes));
    const float32x4_t codes = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
    return vaddq_f32(value, vmulq_f32(codes, residual_scale_));
  }

  const RequantizeArguments& r_;
  int64_t n_;
  float32x4_t clip_low_, clip_high_, scale_, reciprocal_, low_, high_, residual_scale_;
};

}  // namespace

void requantize_arm_neon(const RequantizeArguments& r) {
  const int64_t element = r.range.is_float() ? 4 : 1;
  for (int64_t n = 0; n < r.channels; n += kLanes) {
    const Columns columns(r, n);
    const bool whole = n + kLanes <= r.channels;
    const size_t left = static_cast<size_t>(r.channels - n);
    for (int64_t i = 0; i < r.pixels; ++i) {
      const bool added = r.place != Residual::kNone;
      const uint8_t* residual = added ? r.residual + i * r.residual_stride + n : nullptr;
      uint8_t* y = static_cast<uint8_t*>(r.y) + (i * r.y_stride + n) * element;
      if (whole) {
        columns.Pixel(i, residual, y);
        continue;
      }
      // Nothing beyond the last channel may be read of the residual or written.
      uint8_t codes[kLanes] = {};
      uint8_t results[kLanes * 4];
      if (added) std::memcpy(codes, residual, left);
      columns.Pixel(i, codes, results);
      std::memcpy(y, results, left * element);
    }
  }
}

}  // namespace edgefold
