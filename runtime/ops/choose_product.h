// SPDX-License-Identifier: Apache-2.0
// Which kernels multiply rows of codes with a packed matrix.
#pragma once

#include "base/packed_matrix.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/gemm_packed/gemm_packed.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemm_wide/gemm_wide.h"
#include "kernels/gemm_windows/gemm_windows.h"

namespace edgefold {

// Up to so many rows decoding in registers, by gemv, wins.
inline constexpr int64_t kGemvRows = 3;

// Null where rows are multiplied in more than one step.
GemmPackedKernel* ChooseGemmPacked();

// Null where decoding to int8 is as fast.
GemmShiftKernel* ChooseGemmShift(const PackedMatrix& matrix);

// Null where bytes multiply as fast as 16-bit numbers.
GemmWideKernel* ChooseGemmWide();

// Null where products of bytes in place need another kernel than gemm.
GemmWindowsKernel* ChooseGemmWindows();

// Null where the gemm kernel in use does not read sums of rows: those do that add 128 to the
// weights of int8 rows.
ConvSumsKernel* ChooseSums();

// Whether the product kernels in use read the sums of pairs of int8 rows.
bool ReadsPairSums();

}  // namespace edgefold
