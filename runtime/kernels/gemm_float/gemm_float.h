// SPDX-License-Identifier: Apache-2.0
// Float rows times one decoded panel (weight-only quantization).
//
//   y[m][c] = sum over k < K of x[m][k] * float(panel[k / 4][c][k % 4])     float32
//
// panel is N16K4 (unpack.h), ceil(K / 4) units; y is [rows][y_stride], 16 columns written; nothing
// overlaps. Variants may sum in any order and fuse: |error| <= K * 2^-24 * sum |x| |w|.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

using GemmFloatKernel = void(const float* x, int64_t x_stride, int64_t rows, int64_t k,
                             const int8_t* panel, float* y, int64_t y_stride);

#define EF_KERNEL(isa, symbol) GemmFloatKernel symbol;
#include "kernels/gemm_float/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmFloatKernel> GemmFloatKernels();

}  // namespace edgefold
