// SPDX-License-Identifier: Apache-2.0
// Quantized rows times decoded panels.
//
//   acc[m][16 * p + c] = sum over k < 4 * units of a[m][k] * panel[p][k / 4][c][k % 4]     int32
//
// panel p lies at panels + p * units * 64 in N16K4 order with weights in [-127, 127] (unpack.h).
// Writes rows * acc_stride int32, acc_stride >= 16 * panel_count; acc overlaps nothing. Exact while
// K <= 65536 (255 * 127 * 65536 < 2^31). A row's codes from 4 * units on are zero. rows >= 0, units
// >= 1; no pointer needs alignment.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

using GemmKernel = void(const Activations& a, const int8_t* panels, int64_t panel_count,
                        int64_t units, int32_t* acc, int64_t acc_stride);

#define EF_KERNEL(isa, symbol) GemmKernel symbol;
#include "kernels/gemm/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmKernel> GemmKernels();

}  // namespace edgefold
