// SPDX-License-Identifier: Apache-2.0
// Rows of 16-bit codes times panels of 16-bit weights.
//
//   acc[m][16 * p + c] = sum over l < lines, k < 2 * pairs of
//       codes[m * stride + offsets[l] + k] * panel[p][(2 * pairs * l + k) / 2][c][k % 2]     int32
//
// Rows may overlap, as the windows of a convolution do, whose lines lie apart in the image. Codes
// lie in [-127, 255] and weights in [-127, 127], so sums are exact while lines * 2 * pairs <=
// 65536. Where products of bytes saturate, as those of uint8 codes do on AVX2, widening both sides
// beforehand leaves two instructions for 16 products. Writes rows * acc_stride int32, acc_stride >=
// 16 * panel_count. acc overlaps nothing; no pointer needs alignment.
#pragma once

#include <cstdint>

#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

struct GemmWideArguments {
  const int16_t* codes;
  int64_t stride;
  int64_t rows;
  const int64_t* offsets;  // [lines], in codes
  int64_t lines;           // >= 1
  int64_t pairs;           // of a line's codes, >= 1
  const int16_t* panels;   // [panel_count][lines * pairs][16][2], as TapPairs writes them
  int64_t panel_count;
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
