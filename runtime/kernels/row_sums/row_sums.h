// SPDX-License-Identifier: Apache-2.0
// Sums of rows of codes as they lie in a value cache, weighted by a few rows of attention weights.
//
//   acc[m][c] = sum over n < count of weights[m][n] * rows[n][c]     int32
//
// For more rows of weights than a few, panels (gemm.h) are faster. Exact while count <= 65535.
// Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct RowSumsArguments {
  const uint8_t* weights;  // [weight_rows][weight_stride], zero from count to a multiple of 32
  int64_t weight_stride;
  int64_t weight_rows;
  const int8_t* rows;  // [count][stride]; of the last row no byte behind `columns` is read
  int64_t stride;      // at least columns
  int64_t count;
  int64_t columns;
  int32_t* acc;  // [weight_rows][acc_stride], acc_stride >= columns; overlaps nothing
  int64_t acc_stride;
};

using RowSumsKernel = void(const RowSumsArguments& arguments);

#define EF_KERNEL(isa, symbol) RowSumsKernel symbol;
#include "kernels/row_sums/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<RowSumsKernel> RowSumsKernels();

}  // namespace edgefold
