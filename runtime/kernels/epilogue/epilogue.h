// SPDX-License-Identifier: Apache-2.0
// int32 sums to float results.
//
//   y[m][n] = float(acc[m][n]) * (row_scales[m] * scales[n]) + bias[n]
//
// in float32, in this order, each operation rounded once (no fused multiply-add). Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct EpilogueArguments {
  const int32_t* acc;  // [rows][acc_stride]
  int64_t acc_stride;
  int64_t rows;
  int64_t columns;
  const float* row_scales;  // [rows]
  const float* scales;      // [columns]
  const float* bias;        // [columns], or one value where bias_is_scalar
  bool bias_is_scalar;
  float* y;  // [rows][y_stride]; only `columns` of a row are written
  int64_t y_stride;
};

using EpilogueKernel = void(const EpilogueArguments& arguments);

#define EF_KERNEL(isa, symbol) EpilogueKernel symbol;
#include "kernels/epilogue/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<EpilogueKernel> EpilogueKernels();

}  // namespace edgefold
