// SPDX-License-Identifier: Apache-2.0
// Rows of 16-bit codes times panels of 16-bit weights.
//
//   acc[m][16 * p + c] = sum over k < 2 * pairs of rows[m][k] * panel[p][k / 2][c][k % 2]     int32
//
// Codes lie in [-127, 255] and weights in [-127, 127], so sums are exact while K <= 65536. Where
// products of bytes saturate, as those of uint8 codes do on AVX2, widening both sides beforehand
// leaves two instructions for 16 products. Writes rows * acc_stride int32, acc_stride >= 16 *
// panel_count. Nothing overlaps; no pointer needs alignment.
#pragma once

#include <cstdint>

#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

struct GemmWideArguments {
  const int16_t* codes;  // [rows][stride]
  int64_t stride;        // >= 2 * pairs
  int64_t rows;
  const int16_t* panels;  // [panel_count][pairs][16][2], as TapPairs writes them
  int64_t panel_count;
  int64_t pairs;  // of k, >= 1
  int32_t* acc;
  int64_t acc_stride;
};

using GemmWideKernel = void(const GemmWideArguments& arguments);

#define EF_KERNEL(isa, symbol) GemmWideKernel symbol;
#include "kernels/gemm_wide/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmWideKernel> GemmWideKernels();

}  // namespace edgefold
