// SPDX-License-Identifier: Apache-2.0
// CodeEstimates over registers of four: of 16 channels of a pixel at a time.
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/unroll.h"
#include "kernels/activation/formulas.h"
#include "kernels/requantize/margin.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kFour = 4;

// Four residual codes as floats.
inline EF_INLINE float32x4_t FourResiduals(const uint8_t* residual, bool is_unsigned) {
  uint32_t four;
  std::memcpy(&four, residual, sizeof four);
  const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
  const int16x8_t words =
      is_unsigned ? vreinterpretq_s16_u16(vmovl_u8(bytes)) : vmovl_s8(vreinterpret_s8_u8(bytes));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}

// The integer that the quotient rounds to, as in x86_avx2_estimate.h.
inline EF_INLINE int32x4_t RoundQuotient(float32x4_t value, float32x4_t scale,
                                         float32x4_t reciprocal) {
  const float32x4_t quotient = vmulq_f32(value, reciprocal);
  const float32x4_t remainder = vfmsq_f32(value, quotient, scale);
  return vcvtnq_s32_f32(vfmaq_f32(quotient, remainder, reciprocal));
}

// A comparison with NaN is false.
inline EF_INLINE float32x4_t Clip(float32x4_t value, float32x4_t low, float32x4_t high) {
  const float32x4_t raised = vbslq_f32(vcgtq_f32(value, low), value, low);
  return vbslq_f32(vcltq_f32(raised, high), raised, high);
}

// Four codes by the formula, in fixed point: of channels from n on, where a pixel's are.
__attribute__((noinline)) int32x4_t FourFormulaCodes(const RequantizeArguments& r, int64_t n,
                                                     const int32_t* sums, const uint8_t* residual) {
  const float32x4_t product = vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums)), vld1q_f32(r.scales + n));
  float32x4_t v = vaddq_f32(product, vld1q_f32(r.bias + n));
  if (r.place != Residual::kNone) {
    const float32x4_t codes = FourResiduals(residual, r.residual_is_unsigned);
    v = vaddq_f32(v, vmulq_n_f32(codes, r.residual_scale));
  }
  using Floats = Formulas<kFour>::Floats;
  WithFunction<kFour>(r.activation, [&](const auto& f) { v = (float32x4_t)f((Floats)v); });
  v = Clip(v, vdupq_n_f32(static_cast<float>(r.range.low) * r.y_scale),
           vdupq_n_f32(static_cast<float>(r.range.high) * r.y_scale));
  const float32x4_t reciprocal = vdupq_n_f32(1.0f / r.y_scale);
  return vshlq_n_s32(RoundQuotient(v, vdupq_n_f32(r.y_scale), reciprocal), 16);
}

// Codes by an estimate of the form kLine, kRamp or kQuartics where it is certain, else by the
// formula; of values to which nothing is added after the activation.
template <EstimateForm kForm, bool kAdds>
class EstimatedColumns {
  static constexpr int kVectors = 4;

 public:
  inline EF_INLINE EstimatedColumns(const RequantizeArguments& r, int64_t first)
      : r_(r),
        first_(first),
        is_unsigned_(r.range.is_unsigned()),
        lowest_(vdupq_n_u8(static_cast<uint8_t>(r.estimate->low))),
        highest_(vdupq_n_u8(static_cast<uint8_t>(r.estimate->high))),
        slope_(vdupq_n_f32(r.estimate->slope)),
        middle_(vdupq_n_f32(r.estimate->middle)),
        least_(vdupq_n_f32(r.estimate->least)),
        most_(vdupq_n_f32(r.estimate->most)),
        table_(r.estimate->table),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(vdupq_n_f32(r.residual_scale * r.estimate->factor)) {
    const float32x4_t factor = vdupq_n_f32(r.estimate->factor);
    float32x4_t added = vdupq_n_f32(kAdds ? 255 * std::abs(r.residual_scale) : 0.0f);
    float32x4_t most_bias = vdupq_n_f32(0.0f);
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const float32x4_t bias = vld1q_f32(r.bias + first + kFour * h);
      scale_[h] = vmulq_f32(vld1q_f32(r.scales + first + kFour * h), factor);
      bias_[h] = vfmaq_f32(vdupq_n_f32(r.estimate->offset), bias, factor);
      most_bias = vmaxq_f32(most_bias, vabsq_f32(bias));
      // A NaN, unless both are finite.
      added = vfmaq_f32(added, vmulq_f32(scale_[h], bias_[h]), vdupq_n_f32(0.0f));
    });
    SetMargin(*r.estimate, vaddq_f32(added, most_bias));
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    float32x4_t t[kVectors];
    int32x4_t e[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE { t[h] = Argument<h>(sums, residual); });
    if constexpr (kForm == EstimateForm::kRamp) Ramp(t);
    if constexpr (kForm == EstimateForm::kQuartics) Quartics(t);
    Unroll<kVectors>([&](auto h) EF_INLINE { e[h] = vcvtnq_s32_f32(t[h]); });
    int32x4_t least = e[0];  // low halves of all vectors: how far they are above a tie
    Unroll<kVectors>([&](auto h) EF_INLINE {
      least = vreinterpretq_s32_u16(
          vminq_u16(vreinterpretq_u16_s32(least), vreinterpretq_u16_s32(e[h])));
    });
    if (__builtin_expect(Near(least), 0)) {
      Unroll<kVectors>([&](auto h) EF_INLINE {
        if (!Near(e[h])) return;
        constexpr int kFirst = kFour * h;
        e[h] = FourFormulaCodes(r_, first_ + kFirst, sums + kFirst, residual + kFirst);
      });
    }
    Store(e, y);
  }

 private:
  inline EF_INLINE void SetMargin(const CodeEstimate& e, float32x4_t added) {
    const Margin<kFour> margin(e, (Formulas<kFour>::Floats)added);
    const float32x4_t near = (float32x4_t)margin.near, all = vdupq_n_f32(0xffff);
    // Near() asks for less, which 0xffff never is. Where all is near, e is 0: NaN, converted.
    const float32x4_t above = vaddq_f32(vminq_f32(near, vdupq_n_f32(0xfffe)), vdupq_n_f32(1.0f));
    near_ = vreinterpretq_u16_s32(vcvtnq_s32_f32(above));
    const float32x4_t nan = vdupq_n_f32(std::numeric_limits<float>::quiet_NaN());
    tie_ = vbslq_f32(vceqq_f32(near, all), nan, (float32x4_t)margin.tie);
    if constexpr (kForm == EstimateForm::kLine) {
      Unroll<kVectors>([&](auto h) EF_INLINE { bias_[h] = vaddq_f32(bias_[h], tie_); });
    }
  }

  template <int kVector>
  inline EF_INLINE float32x4_t Argument(const int32_t* sums, const uint8_t* residual) const {
    const float32x4_t sum = vcvtq_f32_s32(vld1q_s32(sums + kFour * kVector));
    const float32x4_t t = vfmaq_f32(bias_[kVector], sum, scale_[kVector]);
    if constexpr (!kAdds) return t;
    const float32x4_t codes = FourResiduals(residual + kFour * kVector, residual_is_unsigned_);
    return vfmaq_f32(t, codes, residual_scale_);
  }

  inline EF_INLINE void Ramp(float32x4_t (&t)[kVectors]) const {
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const float32x4_t ramp = vfmaq_f32(middle_, t[h], slope_);
      const float32x4_t clipped = vminq_f32(vmaxq_f32(ramp, least_), most_);
      t[h] = vfmaq_f32(tie_, t[h], clipped);
    });
  }

  // Sixteen floats of a coefficient are a table of bytes. The vectors share what is loaded of it.
  inline EF_INLINE void Quartics(float32x4_t (&t)[kVectors]) const {
    constexpr float kReach = CodeEstimate::Reach(16);
    float32x4_t y[kVectors];
    uint8x16_t bytes[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      t[h] = vminq_f32(vmaxq_f32(t[h], vdupq_n_f32(-kReach)), vdupq_n_f32(kReach));
      const int32x4_t segment = vandq_s32(vcvtmq_s32_f32(t[h]), vdupq_n_s32(15));
      // Four times the segment, and the four bytes from there on.
      const int32x4_t at = vmlaq_n_s32(vdupq_n_s32(0x03020100), segment, 0x04040404);
      bytes[h] = vreinterpretq_u8_s32(at);
    });
    Unroll<5>([&](auto j) EF_INLINE {
      const uint8x16x4_t table = vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table_[4 - j]));
      Unroll<kVectors>([&](auto h) EF_INLINE {
        const float32x4_t c = vreinterpretq_f32_u8(vqtbl4q_u8(table, bytes[h]));
        y[h] = j == 0 ? c : vfmaq_f32(c, y[h], t[h]);
      });
    });
    Unroll<kVectors>([&](auto h) EF_INLINE { t[h] = vaddq_f32(y[h], tie_); });
  }

  // Whether a low half is less than that of near_; no high half is less than 0.
  inline EF_INLINE bool Near(int32x4_t e) const {
    return vmaxvq_u16(vcltq_u16(vreinterpretq_u16_s32(e), near_)) != 0;
  }

  // The high halves, packed.
  inline EF_INLINE void Store(const int32x4_t (&e)[kVectors], uint8_t* y) const {
    const int16x8_t low = vuzp2q_s16(vreinterpretq_s16_s32(e[0]), vreinterpretq_s16_s32(e[1]));
    const int16x8_t high = vuzp2q_s16(vreinterpretq_s16_s32(e[2]), vreinterpretq_s16_s32(e[3]));
    if (is_unsigned_) {
      const uint8x16_t bytes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
      return vst1q_u8(y, vminq_u8(vmaxq_u8(bytes, lowest_), highest_));
    }
    const int8x16_t bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
    const int8x16_t raised = vmaxq_s8(bytes, vreinterpretq_s8_u8(lowest_));
    vst1q_u8(y, vreinterpretq_u8_s8(vminq_s8(raised, vreinterpretq_s8_u8(highest_))));
  }

  const RequantizeArguments& r_;
  int64_t first_;
  bool is_unsigned_;
  uint8x16_t lowest_, highest_;
  float32x4_t slope_, middle_, least_, most_, tie_;
  const float (&table_)[5][CodeEstimate::kSegments];
  uint16x8_t near_;
  float32x4_t scale_[kVectors], bias_[kVectors];
  bool residual_is_unsigned_;
  float32x4_t residual_scale_;
};

}  // namespace
}  // namespace edgefold
