// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/row_sums/row_sums.h"

namespace edgefold {
namespace {

constexpr int64_t kChunk = 16;  // columns

inline void Chunk(const RowSumsArguments& s, int64_t m, int64_t column, int64_t columns) {
  const uint8_t* weights = s.weights + m * s.weight_stride;
  int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  for (int64_t n = 0; n < s.count; ++n) {
    const int8_t* row = s.rows + n * s.stride + column;
    int8_t last[kChunk] = {};
    if (columns < kChunk) {
      __builtin_memcpy(last, row, static_cast<size_t>(columns));
      row = last;
    }
    const int8x16_t codes = vld1q_s8(row);
    const int16x8_t low = vmovl_s8(vget_low_s8(codes));
    const int16x8_t high = vmovl_high_s8(codes);
    const int16_t w = weights[n];
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(low), w);
    sums[1] = vmlal_high_n_s16(sums[1], low, w);
    sums[2] = vmlal_n_s16(sums[2], vget_low_s16(high), w);
    sums[3] = vmlal_high_n_s16(sums[3], high, w);
  }
  __builtin_memcpy(s.acc + m * s.acc_stride + column, sums, static_cast<size_t>(columns) * 4);
}

}  // namespace

void row_sums_arm_neon(const RowSumsArguments& s) {
  for (int64_t m = 0; m < s.weight_rows; ++m) {
    for (int64_t column = 0; column < s.columns; column += kChunk) {
      Chunk(s, m, column, s.columns - column < kChunk ? s.columns - column : kChunk);
    }
  }
}

}  // namespace edgefold
