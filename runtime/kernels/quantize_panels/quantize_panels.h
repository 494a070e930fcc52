// SPDX-License-Identifier: Apache-2.0
// A float matrix to int8 codes with one scale a row, as panels of the right operand of a product
// whose inner dimension are the rows.
//
//   scales[k] = max over n of |x[k][n]| / 127, or 0 where that is at most 1e-30
//   panels[n / 16][k / 4][n % 16][k % 4] = clip(round_half_even(x[k][n] / scales[k]), -127, 127)
//
// and zeros beyond rows and columns, in a row without scale, and for NaN. This is the order of
// decoded panels (unpack.h): ceil(columns / 16) of ceil(rows / 4) units. In float32, each operation
// rounded once. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct QuantizePanelsArguments {
  const float* x;  // [rows][columns]
  int64_t rows;
  int64_t columns;
  int8_t* panels;  // overlaps nothing
  float* scales;   // [rows]
};

using QuantizePanelsKernel = void(const QuantizePanelsArguments& arguments);

#define EF_KERNEL(isa, symbol) QuantizePanelsKernel symbol;
#include "kernels/quantize_panels/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<QuantizePanelsKernel> QuantizePanelsKernels();

}  // namespace edgefold
