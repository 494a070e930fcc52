// SPDX-License-Identifier: Apache-2.0
// Quantized rows times one packed panel whose tables are multiples of one another.
//
//   acc[m][c] = sum over k < K of a[m][k] * W[k, 16 * panel + c]     int32
//
// For matrices with GemmShiftApplies(matrix): W = (max(code, lowest) - zero) * multiplier[table],
// 16 codes or fewer. Within a group of 32 k the sum of a * (max(code, lowest) - zero) fits int16 in
// any order, so a variant may multiply by the group's multiplier once. `scratch` holds
// GemmShiftScratch(matrix) bytes, 64-byte aligned; its content does not matter. acc is
// [rows][acc_stride], acc_stride >= 16. Exact.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

// |a| <= 127 or a <= 255: 16 * 255 * 8 = 32640 < 2^15 bounds one 16-bit lane of a group.
inline bool GemmShiftApplies(const PackedMatrix& matrix) {
  const int top = (1 << matrix.bits) - 1;
  return matrix.linear && matrix.bits <= 4 && matrix.zero <= 8 && top - matrix.zero <= 8;
}

// Codes of one panel padded to whole groups, and 64 bytes of multipliers a group.
inline int64_t GemmShiftScratch(const PackedMatrix& matrix) {
  return matrix.Groups() * (kGroupUnits * kUnitCodes + 64);
}

using GemmShiftKernel = void(const PackedMatrix& matrix, int64_t panel, const Activations& a,
                             void* scratch, int32_t* acc, int64_t acc_stride);

#define EF_KERNEL(isa, symbol) GemmShiftKernel symbol;
#include "kernels/gemm_shift/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmShiftKernel> GemmShiftKernels();

}  // namespace edgefold
