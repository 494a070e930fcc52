// SPDX-License-Identifier: Apache-2.0
// Rows of scores to attention weights as integers, each with the scale of its value in it.
//
//   e[m][n]     = exp(x[m][n] - max of the row)
//   u[m][n]     = e[m][n] * factors[n],  top[m] = max of a row of u
//   codes[m][n] = round_half_even(u[m][n] * (255 / top[m]))              and 0 for n >= columns
//   steps[m]    = top[m] * (32768 / 255) / max(sum of round_half_even(32768 * e[m][n]), 1)
//
// so that codes * steps is the softmax times the factors. A row without a finite score, without
// any, or whose top is at most 1e-30 gives zeros; NaN gives 0. exp is that of the activation
// kernels, zero below -86; the sum is one of integers, exact; float32, each operation rounded once.
// Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct SoftmaxArguments {
  float* x;  // [rows][x_stride]; overwritten
  int64_t x_stride;
  int64_t rows;
  int64_t columns;       // at most 65535
  const float* factors;  // [columns], not negative
  uint8_t* codes;        // [rows][stride], stride >= columns; overlaps nothing
  int64_t stride;
  float* steps;  // [rows]
};

using SoftmaxKernel = void(const SoftmaxArguments& arguments);

#define EF_KERNEL(isa, symbol) SoftmaxKernel symbol;
#include "kernels/softmax/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<SoftmaxKernel> SoftmaxKernels();

}  // namespace edgefold
