// SPDX-License-Identifier: Apache-2.0
// Rows of scores to attention weights as integers.
//
//   codes[m][n] = round_half_even(255 * exp(x[m][n] - max of the row))      and 0 for n >= columns
//   totals[m]   = sum of the codes
//
// so that codes / totals is the softmax. A row without a finite score, or without any, gives zeros;
// NaN gives 0. exp is that of the activation kernels, zero below -86; float32, each operation
// rounded once. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct SoftmaxArguments {
  const float* x;  // [rows][x_stride]
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  uint8_t* codes;  // [rows][stride], stride >= columns; overlaps nothing
  int64_t stride;
  int32_t* totals;  // [rows]
};

using SoftmaxKernel = void(const SoftmaxArguments& arguments);

#define EF_KERNEL(isa, symbol) SoftmaxKernel symbol;
#include "kernels/softmax/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<SoftmaxKernel> SoftmaxKernels();

}  // namespace edgefold
