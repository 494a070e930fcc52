// SPDX-License-Identifier: Apache-2.0
// A float matrix to int8 codes with one scale a column, as panels of the right operand of a
// product.
//
//   scales[n] = max over k of |x[k][n]| / 127, or 0 where that is at most 1e-30
//   panels[n / 16][k / 4][n % 16][k % 4] = clip(round_half_even(x[k][n] / scales[n]), -127, 127)
//
// and zeros beyond rows and columns, in a column without scale, and for NaN. This is the order of
// decoded panels (unpack.h): ceil(columns / 16) of ceil(rows / 4) units. In float32, each operation
// rounded once. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct QuantizeColumnsArguments {
  const float* x;  // [rows][columns]
  int64_t rows;
  int64_t columns;
  int8_t* panels;  // overlaps nothing
  float* scales;   // [columns]
};

using QuantizeColumnsKernel = void(const QuantizeColumnsArguments& arguments);

#define EF_KERNEL(isa, symbol) QuantizeColumnsKernel symbol;
#include "kernels/quantize_columns/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<QuantizeColumnsKernel> QuantizeColumnsKernels();

}  // namespace edgefold
