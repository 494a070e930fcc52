// SPDX-License-Identifier: Apache-2.0
// Decodes a part of one panel of 16 columns into int8 weights.
//
//   out[u][c][kk] = W[4 * (first_unit + u) + kk, 16 * panel + c]     "N16K4" order, 64 bytes a unit
//
// first_unit is a multiple of 8; first_unit + units <= K4. Columns from N and k from K up decode to
// whatever their codes say. `out` does not overlap the matrix and needs no alignment. Exact.
#pragma once

#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

using UnpackKernel = void(const PackedMatrix& matrix, int64_t panel, int64_t first_unit,
                          int64_t units, int8_t* out);

#define EF_KERNEL(isa, symbol) UnpackKernel symbol;
#include "kernels/unpack/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<UnpackKernel> UnpackKernels();

}  // namespace edgefold
