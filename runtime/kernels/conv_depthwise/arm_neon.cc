// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/conv_depthwise/conv_depthwise.h"

namespace edgefold {
namespace {

template <bool kUnsigned>
inline void Load(const uint8_t* bytes, int16x8_t out[2]) {
  const uint8x16_t codes = vld1q_u8(bytes);
  if constexpr (kUnsigned) {
    out[0] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
    out[1] = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(codes)));
  } else {
    out[0] = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(codes)));
    out[1] = vmovl_s8(vget_high_s8(vreinterpretq_s8_u8(codes)));
  }
}

// kPixels pixels share every load of weights.
template <bool kUnsigned, int kPixels>
void Block(const ConvDepthwiseArguments& d, int64_t first) {
  int32x4_t sums[kPixels][4];
  for (int i = 0; i < kPixels; ++i) {
    for (int q = 0; q < 4; ++q) sums[i][q] = vdupq_n_s32(0);
  }
  for (int64_t t = 0; t < d.taps; ++t) {
    const int16_t* pairs = d.weights + t / 2 * 32;
    const int16x8_t weights[2] = {vld2q_s16(pairs).val[t % 2 != 0],
                                  vld2q_s16(pairs + 16).val[t % 2 != 0]};
    const uint8_t* x = d.x + first * d.step + d.offsets[t];
    for (int i = 0; i < kPixels; ++i) {
      int16x8_t values[2];
      Load<kUnsigned>(x + i * d.step, values);
      for (int h = 0; h < 2; ++h) {
        int32x4_t* out = sums[i] + 2 * h;
        out[0] = vmlal_s16(out[0], vget_low_s16(values[h]), vget_low_s16(weights[h]));
        out[1] = vmlal_s16(out[1], vget_high_s16(values[h]), vget_high_s16(weights[h]));
      }
    }
  }
  for (int i = 0; i < kPixels; ++i) {
    for (int q = 0; q < 4; ++q) vst1q_s32(d.acc + (first + i) * d.acc_stride + 4 * q, sums[i][q]);
  }
}

template <bool kUnsigned>
void Run(const ConvDepthwiseArguments& d) {
  int64_t i = 0;
  for (; i + 4 <= d.pixels; i += 4) Block<kUnsigned, 4>(d, i);
  for (; i < d.pixels; ++i) Block<kUnsigned, 1>(d, i);
}

}  // namespace

void conv_depthwise_arm_neon(const ConvDepthwiseArguments& d) {
  for (int64_t p = 0; p < d.panels; ++p) {
    const ConvDepthwiseArguments panel = d.Panel(p);
    d.is_unsigned ? Run<true>(panel) : Run<false>(panel);
  }
}

}  // namespace edgefold
