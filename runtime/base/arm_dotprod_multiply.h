// SPDX-License-Identifier: Apache-2.0
// The multiplication of ARMv8.2 with dot products: sdot. Included by arm_dotprod.cc and
// arm_i8mm.cc.
#pragma once

#include "base/arm_panel.h"

namespace edgefold {
namespace {

struct MultiplyDotprod {
  static constexpr int kMaxRows = 4;

  template <int kRows>
  static void Tile(const uint8_t* row, int64_t stride, uint8x16_t flip, const int8_t* panel,
                   int64_t units, int32x4_t sums[][4]) {
    for (int64_t u = 0; u < units; ++u) {
      int8x16_t w[4];
      for (int q = 0; q < 4; ++q) w[q] = vld1q_s8(panel + u * kUnitCodes + 16 * q);
      for (int r = 0; r < kRows; ++r) {
        const int8x16_t a = Four(row + r * stride + u * kUnitDepth, flip);
        for (int q = 0; q < 4; ++q) sums[r][q] = vdotq_s32(sums[r][q], w[q], a);
      }
    }
  }
};

}  // namespace
}  // namespace edgefold
