// SPDX-License-Identifier: Apache-2.0
// A few quantized rows times packed panels, decoded on the way.
//
//   acc[m][16 * p + c] = sum over k < K of a[m][k] * W[k, 16 * (first_panel + p) + c]     int32
//
// For rows so few that storing a decoded panel would not pay; any number is valid.
// acc is [rows][acc_stride], acc_stride >= 16 * panel_count, and overlaps nothing. Exact, K <=
// 65536.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

using GemvKernel = void(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                        const Activations& a, int32_t* acc, int64_t acc_stride);

#define EF_KERNEL(isa, symbol) GemvKernel symbol;
#include "kernels/gemv/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemvKernel> GemvKernels();

}  // namespace edgefold
