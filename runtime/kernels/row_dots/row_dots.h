// SPDX-License-Identifier: Apache-2.0
// A few quantized rows times rows of codes as they lie in a key cache, one after the other.
//
//   acc[m][n] = sum over k < depth of x[m][k] * rows[n][k]     int32
//
// For more rows than a few, panels (gemm.h) are faster. Exact while depth <= 65536. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct RowDotsArguments {
  const int8_t* x;  // [x_rows][x_stride], zero from depth to the next multiple of 32
  int64_t x_stride;
  int64_t x_rows;
  const int8_t* rows;  // [count][stride]; of the last row no byte behind `depth` is read
  int64_t stride;      // at least depth
  int64_t count;
  int64_t depth;  // at least 1
  int32_t* acc;   // [x_rows][acc_stride], acc_stride >= count; overlaps nothing
  int64_t acc_stride;
};

using RowDotsKernel = void(const RowDotsArguments& arguments);

#define EF_KERNEL(isa, symbol) RowDotsKernel symbol;
#include "kernels/row_dots/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<RowDotsKernel> RowDotsKernels();

}  // namespace edgefold
