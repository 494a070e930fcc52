// SPDX-License-Identifier: Apache-2.0
// A float matrix to int8 codes with one scale a row, as panels of the right operand of a product.
//
//   scales[k]  = max over n of |x[k][n]| / 127, or 0 where that is at most 1e-30
//   code[k][n] = round_half_even(x[k][n] / scales[k])
//
//   panels[n / 16][k / 4][n % 16][k % 4]    rows of x are the inner dimension of the product
//   panels[k / 16][n / 4][k % 16][n % 4]    transposed: rows of x are the columns of the operand
//
// and zeros beyond rows and columns, in a row without scale, and for NaN. This is the order of
// decoded panels (unpack.h). In float32, each operation rounded once. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct QuantizePanelsArguments {
  const float* x;  // [rows][x_stride]
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  bool transposed;
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
