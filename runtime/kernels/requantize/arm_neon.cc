// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include <cstring>
#include <limits>

#include "kernels/activation/formulas.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: four registers, one store of codes
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = Formulas<4>::Floats;

// A comparison with NaN is false.
inline float32x4_t Clip(float32x4_t value, float32x4_t low, float32x4_t high) {
  const float32x4_t raised = vbslq_f32(vcgtq_f32(value, low), value, low);
  return vbslq_f32(vcltq_f32(raised, high), raised, high);
}

// The low bytes of sixteen lanes.
inline uint8x16_t Pack(const int32x4_t codes[4]) {
  const int16x8_t first = vcombine_s16(vmovn_s32(codes[0]), vmovn_s32(codes[1]));
  const int16x8_t second = vcombine_s16(vmovn_s32(codes[2]), vmovn_s32(codes[3]));
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}

// Where values are clipped before they become results, as in x86_avx2.cc.
struct Bounds {
  float32x4_t low, high;

  Bounds(const CodeRange& range, float y_scale, float clip_low, float clip_high) {
    low = vdupq_n_f32(clip_low);
    high = vdupq_n_f32(clip_high);
    if (range.is_float()) return;
    const float32x4_t lowest = vdupq_n_f32(static_cast<float>(range.low) * y_scale);
    const float32x4_t highest = vdupq_n_f32(static_cast<float>(range.high) * y_scale);
    low = Clip(low, lowest, highest);
    high = Clip(high, lowest, highest);
  }
};

// Channels n .. n + 15 of a pixel, whose residual codes and results lie at `residual` and y.
template <typename Function>
void Pixel(const RequantizeArguments& r, const Bounds& bounds, const Function& activation,
           const int32_t* sums, int64_t n, const uint8_t* residual, uint8_t* y) {
  const auto add = [&](float32x4_t value, const uint8_t* codes) {
    uint32_t four;
    std::memcpy(&four, codes, sizeof four);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    const int16x8_t words = r.residual_is_unsigned ? vreinterpretq_s16_u16(vmovl_u8(bytes))
                                                   : vmovl_s8(vreinterpret_s8_u8(bytes));
    const float32x4_t integers = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
    return vaddq_f32(value, vmulq_n_f32(integers, r.residual_scale));
  };
  // The integer that the quotient rounds to, as in x86_avx2.cc.
  const auto code = [&](float32x4_t value) {
    const float32x4_t y_scale = vdupq_n_f32(r.y_scale);
    const float32x4_t reciprocal = vdupq_n_f32(1.0f / r.y_scale);
    const float32x4_t quotient = vmulq_f32(value, reciprocal);
    const float32x4_t remainder = vfmsq_f32(value, quotient, y_scale);
    return vcvtnq_s32_f32(vfmaq_f32(quotient, remainder, reciprocal));
  };
  int32x4_t codes[4];
  for (int q = 0; q < 4; ++q) {
    const float32x4_t product =
        vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + 4 * q)), vld1q_f32(r.scales + n + 4 * q));
    float32x4_t value = vaddq_f32(product, vld1q_f32(r.bias + n + 4 * q));
    if (r.place == Residual::kBeforeActivation) value = add(value, residual + 4 * q);
    value = (float32x4_t)activation((Floats)value);
    if (r.place == Residual::kAfterActivation) value = add(value, residual + 4 * q);
    value = Clip(value, bounds.low, bounds.high);
    if (r.range.is_float()) {
      vst1q_f32(reinterpret_cast<float*>(y) + 4 * q, value);
    } else {
      codes[q] = code(value);
    }
  }
  if (!r.range.is_float()) vst1q_u8(y, Pack(codes));
}

template <typename Function>
void Run(const RequantizeArguments& r, const Bounds& bounds, const Function& activation) {
  const int64_t element = r.range.is_float() ? 4 : 1;
  const bool adds = r.place != Residual::kNone;
  for (int64_t n = 0; n < r.channels; n += kLanes) {
    const bool whole = n + kLanes <= r.channels;
    const size_t left = static_cast<size_t>(r.channels - n);
    for (int64_t i = 0; i < r.pixels; ++i) {
      const int32_t* sums = r.sums + i * r.stride + n;
      const uint8_t* residual = adds ? r.residual + i * r.residual_stride + n : nullptr;
      uint8_t* y = static_cast<uint8_t*>(r.y) + (i * r.y_stride + n) * element;
      if (whole) {
        Pixel(r, bounds, activation, sums, n, residual, y);
        continue;
      }
      // Fewer channels: nothing beyond them may be read of the residual, or written.
      uint8_t codes[kLanes] = {};
      uint8_t results[kLanes * 4];
      if (adds) std::memcpy(codes, residual, left);
      Pixel(r, bounds, activation, sums, n, codes, results);
      std::memcpy(y, results, left * element);
    }
  }
}

}  // namespace

void requantize_arm_neon(const RequantizeArguments& r) {
  if (r.activation.kind != ActivationKind::kClip) {
    const Bounds bounds(r.range, r.y_scale, -kInfinity, kInfinity);
    return WithFunction<4>(r.activation, [&](const auto& f) { Run(r, bounds, f); });
  }
  const float alpha = r.activation.alpha;
  const float beta = r.activation.beta;
  if (r.place != Residual::kAfterActivation) {
    const Bounds bounds(r.range, r.y_scale, alpha, beta);
    return Run(r, bounds, [](Floats x) { return x; });
  }
  const Bounds bounds(r.range, r.y_scale, -kInfinity, kInfinity);
  Run(r, bounds, [=](Floats x) {
    return (Floats)Clip((float32x4_t)x, vdupq_n_f32(alpha), vdupq_n_f32(beta));
  });
}

}  // namespace edgefold
