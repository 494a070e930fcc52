// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/requantize/arm_neon_estimate.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: four registers, one store of codes
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = Formulas<4>::Floats;

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
    const float32x4_t integers = FourResiduals(codes, r.residual_is_unsigned);
    return vaddq_f32(value, vmulq_n_f32(integers, r.residual_scale));
  };
  const float32x4_t y_scale = vdupq_n_f32(r.y_scale);
  const float32x4_t reciprocal = vdupq_n_f32(1.0f / r.y_scale);
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
      codes[q] = RoundQuotient(value, y_scale, reciprocal);
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

// The last sixteen channels overlap those before them where they would reach beyond the last.
template <EstimateForm kForm, bool kAdds>
void RunEstimated(const RequantizeArguments& r) {
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride;
  const int64_t residual_stride = kAdds ? r.residual_stride : 0;
  for (int64_t first = 0; first < r.channels; first += kLanes) {
    const int64_t n = std::min(first, r.channels - kLanes);
    const EstimatedColumns<kForm, kAdds> columns(r, n);
    const int32_t* sums = r.sums + n;
    const uint8_t* residual = kAdds ? r.residual + n : nullptr;
    uint8_t* y = static_cast<uint8_t*>(r.y) + n;
    for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
      columns.Pixel(sums, residual, y);
      residual += residual_stride;
    }
  }
}

template <EstimateForm kForm>
void RunEstimated(const RequantizeArguments& r) {
  r.place == Residual::kNone ? RunEstimated<kForm, false>(r) : RunEstimated<kForm, true>(r);
}

}  // namespace

void requantize_arm_neon(const RequantizeArguments& r) {
  const bool estimated = r.estimate != nullptr && r.channels >= kLanes;
  switch (estimated ? r.estimate->form : EstimateForm::kNone) {
    case EstimateForm::kLine:
      return RunEstimated<EstimateForm::kLine>(r);
    case EstimateForm::kRamp:
      return RunEstimated<EstimateForm::kRamp>(r);
    case EstimateForm::kQuartics:
      return RunEstimated<EstimateForm::kQuartics>(r);
    case EstimateForm::kNone:
    case EstimateForm::kCubics:
      break;
  }
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
