// SPDX-License-Identifier: Apache-2.0
// Quantized rows times packed panels, to floats: decoding, product and epilogue in one.
//
//   y[m][c] = float(sum over k < K of a[m][k] * W[k, first + c]) * (row_scales[m] * scales[c])
//             + bias[c]                     for c < columns, first = 16 * first_panel
//
// in float32, in this order, each operation rounded once (no fused multiply-add). Bit-equal. For
// rows enough that a decoded panel serves several tiles of them; any number is valid. Exact, K <=
// 65536. y overlaps nothing.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

struct GemmPackedArguments {
  const PackedMatrix* matrix;
  int64_t first_panel;
  int64_t columns;  // from the first of first_panel on, at most as many as the matrix has
  Activations a;
  uint8_t* decoded;         // GemmPackedScratch bytes, aligned to 64
  const float* row_scales;  // [a.rows]
  const float* scales;      // [columns]
  const float* bias;        // [columns], or one value where bias_is_scalar
  bool bias_is_scalar;
  float* y;  // [a.rows][y_stride]; only `columns` of a row are written
  int64_t y_stride;
};

inline int64_t GemmPackedScratch(const PackedMatrix& matrix) {
  return 2 * matrix.Units() * kUnitCodes;
}

using GemmPackedKernel = void(const GemmPackedArguments& arguments);

#define EF_KERNEL(isa, symbol) GemmPackedKernel symbol;
#include "kernels/gemm_packed/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<GemmPackedKernel> GemmPackedKernels();

}  // namespace edgefold
