// SPDX-License-Identifier: Apache-2.0
// The multiplication of ARMv8.6: smmla, two rows by two columns by eight k. Included by
// arm_i8mm.cc.
#pragma once

#include "base/arm_dotprod_multiply.h"

namespace edgefold {
namespace {

struct MultiplyI8mm {
  static constexpr int kMaxRows = 4;

  static int8x16_t TwoRows(const uint8_t* first, const uint8_t* second, uint8x16_t flip) {
    return vreinterpretq_s8_u8(veorq_u8(vcombine_u8(vld1_u8(first), vld1_u8(second)), flip));
  }

  // blocks[i]: columns 2 * i, 2 * i + 1 of two rows, over pairs of units.
  static void Blocks(const uint8_t* row, int64_t stride, uint8x16_t flip, const int8_t* panel,
                     int64_t units, int32x4_t blocks[8]) {
    for (int64_t u = 0; u + 2 <= units; u += 2) {
      const uint8_t* codes = row + u * kUnitDepth;
      const int8x16_t a = TwoRows(codes, codes + stride, flip);
      for (int q = 0; q < 4; ++q) {
        const int32x4_t w0 = vreinterpretq_s32_s8(vld1q_s8(panel + u * kUnitCodes + 16 * q));
        const int32x4_t w1 = vreinterpretq_s32_s8(vld1q_s8(panel + (u + 1) * kUnitCodes + 16 * q));
        const int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(w0, w1));
        const int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(w0, w1));
        blocks[2 * q] = vmmlaq_s32(blocks[2 * q], a, low);
        blocks[2 * q + 1] = vmmlaq_s32(blocks[2 * q + 1], a, high);
      }
    }
  }

  template <int kRows>
  static void Tile(const uint8_t* row, int64_t stride, uint8x16_t flip, const int8_t* panel,
                   int64_t units, int32x4_t sums[][4]) {
    if constexpr (kRows == 1) {
      return MultiplyDotprod::Tile<1>(row, stride, flip, panel, units, sums);
    } else {
      int32x4_t blocks[kRows / 2][8];
      for (int pair = 0; pair < kRows / 2; ++pair) {
        for (int i = 0; i < 8; ++i) blocks[pair][i] = vdupq_n_s32(0);
        Blocks(row + 2 * pair * stride, stride, flip, panel, units, blocks[pair]);
        for (int q = 0; q < 4; ++q) {
          const int32x4_t left = blocks[pair][2 * q];
          const int32x4_t right = blocks[pair][2 * q + 1];
          sums[2 * pair][q] =
              vaddq_s32(sums[2 * pair][q], vcombine_s32(vget_low_s32(left), vget_low_s32(right)));
          sums[2 * pair + 1][q] = vaddq_s32(
              sums[2 * pair + 1][q], vcombine_s32(vget_high_s32(left), vget_high_s32(right)));
        }
      }
      if (units % 2 != 0) {
        const int64_t last = units - 1;
        MultiplyDotprod::Tile<kRows>(row + last * kUnitDepth, stride, flip,
                                     panel + last * kUnitCodes, 1, sums);
      }
    }
  }
};

}  // namespace
}  // namespace edgefold
