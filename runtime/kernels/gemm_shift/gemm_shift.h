// SPDX-License-Identifier: Apache-2.0
// Quantized rows times packed panels of a factored matrix.
//
//   acc[m][16 * p + c] = sum over k < K of a[m][k] * W[k, 16 * (first_panel + p) + c]     int32
//
// For matrices with GemmShiftApplies(matrix): W is a small level times its group's factor (Factors
// in packed_matrix.h), so a variant may add products in 16 bits over a run of k and multiply by the
// factor once. `scratch` holds GemmShiftScratch(matrix, rows) bytes, 64-byte aligned; its content
// does not matter. acc is [rows][acc_stride], acc_stride >= 16 * panel_count. Exact, K <= 65536.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

inline bool GemmShiftApplies(const PackedMatrix& matrix) { return matrix.factors.shapes > 0; }

// Units whose products fit a 16-bit sum, in any order: two of each unit meet in a lane.
// int8 rows: |sum of a * level| <= 2 * units * 127 * top < 2^15. The levels are read as unsigned,
// which changes the sum modulo 2^16 only; the offset of the row (pair_sums) takes it back.
// uint8 rows: |sum| <= 2 * units * 255 * top < 2^15.
inline int RunUnits(const Factors& factors, bool is_unsigned) {
  const int top = factors.top * (is_unsigned ? 2 : 1);
  return top <= 16 ? 8 : top <= 32 ? 4 : 2;
}

// A block of one panel stays in the first-level cache while all rows pass by.
inline constexpr int64_t kShiftBlockGroups = 24;

// Levels of a block and 64 bytes of factors a group; then four offsets a row and group. A multiple
// of 64: sums that follow should not straddle cache lines.
inline int64_t GemmShiftScratch(const PackedMatrix& matrix, int64_t rows) {
  const int64_t block = kShiftBlockGroups * (kGroupUnits * kUnitCodes + 64);
  return block + (rows * matrix.Groups() * 8 + 63) / 64 * 64;
}

using GemmShiftKernel = void(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                             const Activations& a, void* scratch, int32_t* acc, int64_t acc_stride);

#define EF_KERNEL(isa, symbol) GemmShiftKernel symbol;
#include "kernels/gemm_shift/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmShiftKernel> GemmShiftKernels();

}  // namespace edgefold
