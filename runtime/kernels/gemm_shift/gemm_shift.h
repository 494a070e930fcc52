// SPDX-License-Identifier: Apache-2.0
// Quantized rows times packed panels of a factored matrix.
//
//   acc[m][16 * p + c] = sum over k < K of a[m][k] * W[k, 16 * (first_panel + p) + c]     int32
//
// For matrices with GemmShiftApplies(matrix): W is a small level times its group's factor (Factors
// in packed_matrix.h), so a variant may add products in 16 bits over a run of k and multiply by the
// factor once. `rows` are those that GemmShiftRows describes, arranged. `scratch` holds
// GemmShiftScratch(rows) bytes, 64-byte aligned; its content does not matter. acc is
// [rows][acc_stride], acc_stride >= 16 * panel_count. Exact, K <= 65536.
#pragma once

#include "base/kernel.h"
#include "base/packed_matrix.h"
#include "kernels/arrange/arrange.h"

namespace edgefold {

inline bool GemmShiftApplies(const PackedMatrix& matrix) { return matrix.factors.shapes > 0; }

// Units of a block whose products fit a 16-bit sum, in any order: two of each unit meet in a lane.
// int8 rows: |sum of a * level| <= 2 * units * 127 * top < 2^15. The levels are read as unsigned,
// which changes the sum modulo 2^16 only; the offset of the row takes it back.
// uint8 rows: |sum| <= 2 * units * 255 * top < 2^15. Few levels of one shape are method shift.
inline bool FewLevels(const Factors& factors) { return factors.shapes == 1 && factors.top <= 8; }
inline int RunUnits(const Factors& factors, bool is_unsigned) {
  return (FewLevels(factors) ? 16 : 4) / (is_unsigned ? 2 : 1);
}

// How rows of this matrix are to be arranged; `blocks` is the caller's to set.
inline ArrangedRows GemmShiftRows(const PackedMatrix& matrix, int64_t rows, bool is_unsigned) {
  return {nullptr,
          rows,
          matrix.Groups(),
          is_unsigned,
          RunUnits(matrix.factors, is_unsigned),
          is_unsigned ? 0 : matrix.factors.top};
}

// Decoded levels and factors of a block, then sums of one panel.
inline int64_t GemmShiftScratch(const ArrangedRows& rows) {
  return kBlockUnits * kUnitCodes + 64 + rows.rows * kPanelColumns * 4;
}

using GemmShiftKernel = void(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                             const ArrangedRows& rows, void* scratch, int32_t* acc,
                             int64_t acc_stride);

#define EF_KERNEL(isa, symbol) GemmShiftKernel symbol;
#include "kernels/gemm_shift/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmShiftKernel> GemmShiftKernels();

}  // namespace edgefold
