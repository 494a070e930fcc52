// SPDX-License-Identifier: Apache-2.0
// Rows divided by their mean absolute deviation, in integers, with the quantization of the result.
//
//   t[i]   = round_half_even(x[i] * factor), factor = 16383 / max |x|    (float x)
//          = x[i] * 128,                   factor = 128                (int8 x)
//   mean   = round_half_even(float(sum t) / float(columns)), or 0 where rows are not centred
//   d[i]   = t[i] - mean
//   scale  = float(columns) / max(float(sum |d|), float(columns) * (epsilon * factor))
//   y[i]   = float(d[i]) * (scale * gamma[i]) + beta[i]
//   code   = clip(round_half_even(y[i]), -high, high) * steps[i]                      (int8 y)
//
// The sums are of integers, so they are the same in any order; float operations are rounded once
// each. A row with max |x| <= 1e-30 has t = 0; a divisor of 0 gives scale = 0, so a constant row
// gives beta. NaN counts as 0, and a row with infinity as one of zeros.
// For codes, y must stay within int32: it does where columns * max |gamma| + max |beta| is below
// 2^31, for |d| is at most sum |d|. Levels of 15 bits leave room for the difference of two in 16.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

inline constexpr int64_t kL1NormColumns = 65535;  // more and sum |d| may leave int32
inline constexpr float kL1NormLevels = 16383.0f;  // largest |t| of float rows
inline constexpr int32_t kL1NormByteFactor = 128;

struct L1NormArguments {
  const float* x;         // [rows][columns], or null
  const int8_t* x_codes;  // [rows][columns] where x is null
  int64_t rows;
  int64_t columns;  // 1..kL1NormColumns
  bool centred;
  float epsilon;         // >= 0, in units of x
  const float* gamma;    // [columns]
  const float* beta;     // [columns]
  const int16_t* steps;  // [columns] powers of two with high * step <= 127; null for all 1
  float high;            // 1..127
  float* y;              // [rows][columns], or null
  int8_t* y_codes;       // [rows][columns] where y is null
  int16_t* scratch;      // [columns]
};

using L1NormKernel = void(const L1NormArguments& arguments);

#define EF_KERNEL(isa, symbol) L1NormKernel symbol;
#include "kernels/l1_norm/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<L1NormKernel> L1NormKernels();

}  // namespace edgefold
