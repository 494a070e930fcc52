// SPDX-License-Identifier: Apache-2.0
// Windows of an image of codes, read where they lie, times panels of decoded weights.
//
//   acc[m][16 * p + c] = sum over l < lines, k < 4 * units of
//       codes[m * step + offsets[l] + k] * panel[p][l * units + k / 4][c][k % 4]     int32
//
// Windows may overlap, as those of a convolution do, whose lines lie apart in the image; rows of a
// matrix are windows of one line. Codes are int8 in [-127, 127] or uint8, weights lie in [-127,
// 127] and in N16K4 order (unpack.h); where a line has fewer codes, its last weights are zero. Sums
// are exact while lines * 4 * units <= 65536. For where products of bytes are exact: no code is
// copied or widened. Writes rows * acc_stride int32, acc_stride >= 16 * panel_count. acc overlaps
// nothing; no pointer needs alignment.
#pragma once

#include <cstdint>

#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

struct GemmWindowsArguments {
  const uint8_t* codes;
  bool is_unsigned;
  int64_t step;
  int64_t rows;
  const int64_t* offsets;  // [lines]
  int64_t lines;           // >= 1
  int64_t units;           // of a line, >= 1
  const int8_t* panels;    // [panel_count][lines * units][16][4]
  const int32_t* totals;   // [panel_count][16]: the sum of a column's weights
  int64_t panel_count;
  int64_t columns;  // of all panels, at least one of the last; weights beyond are zero
  int32_t* acc;
  int64_t acc_stride;
};

using GemmWindowsKernel = void(const GemmWindowsArguments& arguments);

#define EF_KERNEL(isa, symbol) GemmWindowsKernel symbol;
#include "kernels/gemm_windows/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmWindowsKernel> GemmWindowsKernels();

}  // namespace edgefold
