// SPDX-License-Identifier: Apache-2.0
// Float rows to the 8-bit operands of an integer product.
//
//   codes[m][k] = clip(round_half_even(x[m][k] / (row_scale * steps[k])), low, high) * steps[k]
//
// and zero for k >= columns.
//
// static_scale > 0:  row_scale = static_scale.
// static_scale == 0: absmax = max |x[m][k]| / steps[k], row_scale = absmax / high; absmax <= 1e-30
//                    gives row_scale = 0 and codes 0.
// A division, for ONNX Runtime rewrites x * (1 / s) to x / s in the function body.
// All in float32, each operation rounded once. NaN counts as 0 in absmax and becomes code `low`.
// sums[m] and pair_sums[m] are those of activations.h; pair_sums may be null.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct QuantizeArguments {
  const float* x;  // [rows][x_stride]
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  const float* steps;  // [stride], powers of two from 1 to 128; null: all are 1
  float static_scale;
  int32_t low;     // -127..0; codes are int8 when negative, else uint8
  int32_t high;    // 1..255; |low| and high times a step are at most 127 when low < 0, else 255
  uint8_t* codes;  // [rows][stride], stride >= columns and a multiple of 32
  int64_t stride;
  float* row_scales;   // [rows]
  int32_t* sums;       // [rows]
  int16_t* pair_sums;  // [rows][stride / 32][4] or null; only when low < 0
};

using QuantizeKernel = void(const QuantizeArguments& arguments);

#define EF_KERNEL(isa, symbol) QuantizeKernel symbol;
#include "kernels/quantize/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<QuantizeKernel> QuantizeKernels();

}  // namespace edgefold
