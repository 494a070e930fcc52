// SPDX-License-Identifier: Apache-2.0
// Rows times a decoded panel on NEON, whatever the instruction that multiplies. Included by
// arm_*.cc only; everything here is private to the file that includes it.
//
// uint8 codes are made int8 by subtracting 128: the difference is 128 times a column's sum.
#pragma once

#include <arm_neon.h>

#include "base/activations.h"
#include "base/packed_matrix.h"

namespace edgefold {
namespace {

// 0, or 128 times each column's sum over the units.
inline void StartSums(const int8_t* panel, int64_t units, bool is_unsigned, int32x4_t start[4]) {
  for (int q = 0; q < 4; ++q) {
    int32x4_t sums = vdupq_n_s32(0);
    for (int64_t u = 0; is_unsigned && u < units; ++u) {
      const int16x8_t pairs = vpaddlq_s8(vld1q_s8(panel + u * kUnitCodes + 16 * q));
      sums = vaddq_s32(sums, vpaddlq_s16(pairs));
    }
    start[q] = vshlq_n_s32(sums, 7);
  }
}

// acc (+)= rows of `a`, from byte first_code on, times the panel's units. Multiply provides
//   static constexpr int kMaxRows;
//   template <int kRows> static void Tile(const uint8_t* row, int64_t stride, uint8x16_t flip,
//                                         const int8_t* panel, int64_t units, int32x4_t sums[][4]);
// which adds to sums[row][quarter of the columns]; codes are to be XORed with `flip`.
template <typename Multiply, int kRows>
inline void Rows(const Activations& a, int64_t row, int64_t first_code, const int8_t* panel,
                 int64_t units, const int32x4_t start[4], bool add, int32_t* acc,
                 int64_t acc_stride) {
  int32x4_t sums[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < 4; ++q) {
      const int32_t* before = acc + (row + r) * acc_stride + 4 * q;
      sums[r][q] = add ? vaddq_s32(start[q], vld1q_s32(before)) : start[q];
    }
  }
  const uint8x16_t flip = vdupq_n_u8(a.is_unsigned ? 0x80 : 0);
  Multiply::template Tile<kRows>(a.Row(row) + first_code, a.stride, flip, panel, units, sums);
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < 4; ++q) vst1q_s32(acc + (row + r) * acc_stride + 4 * q, sums[r][q]);
  }
}

template <typename Multiply>
inline void Panel(const Activations& a, int64_t first_code, const int8_t* panel, int64_t units,
                  bool add, int32_t* acc, int64_t acc_stride) {
  int32x4_t start[4];
  StartSums(panel, units, a.is_unsigned, start);
  int64_t m = 0;
  for (; m + Multiply::kMaxRows <= a.rows; m += Multiply::kMaxRows) {
    Rows<Multiply, Multiply::kMaxRows>(a, m, first_code, panel, units, start, add, acc, acc_stride);
  }
  for (; m + 2 <= a.rows; m += 2) {
    Rows<Multiply, 2>(a, m, first_code, panel, units, start, add, acc, acc_stride);
  }
  if (m < a.rows) {
    Rows<Multiply, 1>(a, m, first_code, panel, units, start, add, acc, acc_stride);
  }
}

// Four codes of a row in every quarter of a register, as int8.
inline int8x16_t Four(const uint8_t* codes, uint8x16_t flip) {
  const uint8x16_t four =
      vreinterpretq_u8_u32(vld1q_dup_u32(reinterpret_cast<const uint32_t*>(codes)));
  return vreinterpretq_s8_u8(veorq_u8(four, flip));
}

template <typename Multiply>
inline void Gemm(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                 int32_t* acc, int64_t acc_stride) {
  for (int64_t p = 0; p < panel_count; ++p) {
    Panel<Multiply>(a, 0, panels + p * units * kUnitCodes, units, false, acc + p * kPanelColumns,
                    acc_stride);
  }
}

}  // namespace
}  // namespace edgefold
