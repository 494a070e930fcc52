// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "kernels/row_dots/row_dots.h"

namespace edgefold {
namespace {

constexpr int64_t kChunk = 16;

// Adds sixteen products to four sums; a product of int8 fits 16 bits, a sum of two need not.
inline int32x4_t Add(int32x4_t sums, const int8_t* x, const int8_t* row) {
  const int8x16_t a = vld1q_s8(x);
  const int8x16_t b = vld1q_s8(row);
  sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  return vpadalq_s16(sums, vmull_high_s8(a, b));
}

}  // namespace

void row_dots_arm_neon(const RowDotsArguments& d) {
  const int64_t whole = d.depth / kChunk * kChunk;
  for (int64_t n = 0; n < d.count; ++n) {
    const int8_t* row = d.rows + n * d.stride;
    int8_t last[kChunk] = {};
    if (whole < d.depth) {
      __builtin_memcpy(last, row + whole, static_cast<size_t>(d.depth - whole));
    }
    for (int64_t m = 0; m < d.x_rows; ++m) {
      const int8_t* x = d.x + m * d.x_stride;
      int32x4_t sums = vdupq_n_s32(0);
      for (int64_t k = 0; k < whole; k += kChunk) sums = Add(sums, x + k, row + k);
      if (whole < d.depth) sums = Add(sums, x + whole, last);
      d.acc[m * d.acc_stride + n] = vaddvq_s32(sums);
    }
  }
}

}  // namespace edgefold
