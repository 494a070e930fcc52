// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include <cstring>

#include "kernels/conv_quantize/conv_quantize.h"

namespace edgefold {
namespace {

struct Range {
  float scale;
  float32x4_t low;
  float32x4_t high;

  // Four pixels of a channel as codes in the low byte of each lane; NaN becomes `low`.
  uint32x4_t Codes(float32x4_t x, float step) const {
    float32x4_t value = vdivq_f32(x, vdupq_n_f32(scale * step));
    value = vbslq_f32(vcgtq_f32(value, low), value, low);
    const float32x4_t code = vrndnq_f32(vminq_f32(value, high));
    const int32x4_t codes = vcvtq_s32_f32(vmulq_n_f32(code, step));
    return vandq_u32(vreinterpretq_u32_s32(codes), vdupq_n_u32(255));
  }
};

inline float32x4_t Load(const float* x, int64_t lanes) {
  if (lanes == 4) return vld1q_f32(x);
  float values[4] = {};
  for (int64_t i = 0; i < lanes; ++i) values[i] = x[i];
  return vld1q_f32(values);
}

}  // namespace

void conv_quantize_arm_neon(const ConvQuantizeArguments& q) {
  const Range range = {q.scale, vdupq_n_f32(static_cast<float>(q.low)),
                       vdupq_n_f32(static_cast<float>(q.high))};
  for (int64_t i = 0; i < q.pixels; i += 4) {
    const int64_t lanes = q.pixels - i < 4 ? q.pixels - i : 4;
    for (int64_t c = 0; c < q.channels; c += 4) {
      const int64_t channels = q.channels - c < 4 ? q.channels - c : 4;
      // Lane: the codes of four channels at one pixel, lowest byte first.
      uint32x4_t quad = vdupq_n_u32(0);
      for (int64_t j = 0; j < channels; ++j) {
        const float step = q.steps == nullptr ? 1.0f : q.steps[c + j];
        const float32x4_t x = Load(q.x + (c + j) * q.channel_stride + i, lanes);
        const uint32x4_t codes = range.Codes(x, step);
        quad = vorrq_u32(quad, vshlq_u32(codes, vdupq_n_s32(static_cast<int32_t>(8 * j))));
      }
      uint32_t words[4];
      vst1q_u32(words, quad);
      for (int64_t p = 0; p < lanes; ++p) {
        std::memcpy(q.codes + (i + p) * q.pixel_stride + c, &words[p],
                    static_cast<size_t>(channels));
      }
    }
  }
}

}  // namespace edgefold
