// SPDX-License-Identifier: Apache-2.0
// The multiplication of every 64-bit ARM: smull, smlal, sadalp. Included by arm_neon.cc only.
#pragma once

#include "base/arm_panel.h"

namespace edgefold {
namespace {

struct MultiplyNeon {
  static constexpr int kMaxRows = 2;

  // Two products of int8 fit int16: 2 * 127 * 128 < 2^15. Two units make one addition to 32 bits.
  static int32x4_t Add(int32x4_t sums, int8x8_t w0, int8x8_t a0, int8x8_t w1, int8x8_t a1) {
    return vpadalq_s16(sums, vmlal_s8(vmull_s8(w0, a0), w1, a1));
  }

  template <int kRows>
  static void Tile(const uint8_t* row, int64_t stride, uint8x16_t flip, const int8_t* panel,
                   int64_t units, int32x4_t sums[][4]) {
    // Lane pairs of a column are added at the end.
    int32x4_t halves[kRows][8];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < 8; ++i) halves[r][i] = vdupq_n_s32(0);
    }
    for (int64_t u = 0; u < units; u += 2) {
      const bool both = u + 1 < units;
      int8x8_t first[kRows];
      int8x8_t second[kRows];
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* codes = row + r * stride + u * kUnitDepth;
        first[r] = vget_low_s8(Four(codes, flip));
        second[r] = both ? vget_low_s8(Four(codes + kUnitDepth, flip)) : vdup_n_s8(0);
      }
      const int8_t* w0 = panel + u * kUnitCodes;
      const int8_t* w1 = both ? w0 + kUnitCodes : w0;
      for (int i = 0; i < 8; ++i) {
        const int8x8_t a = vld1_s8(w0 + 8 * i);
        const int8x8_t b = vld1_s8(w1 + 8 * i);
        for (int r = 0; r < kRows; ++r) {
          halves[r][i] = Add(halves[r][i], a, first[r], b, second[r]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int q = 0; q < 4; ++q) {
        sums[r][q] = vaddq_s32(sums[r][q], vpaddq_s32(halves[r][2 * q], halves[r][2 * q + 1]));
      }
    }
  }
};

}  // namespace
}  // namespace edgefold
