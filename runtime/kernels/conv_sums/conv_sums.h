// SPDX-License-Identifier: Apache-2.0
// The sums of activations.h over rows of int8 codes.
//
//   sums[m]         = sum over k < 32 * a.groups of a[m][k]                              int32
//   pair_sums[m][g] = the same over the codes k % 4 < 2, and k % 4 >= 2, of the first and of the
//                     second half of group g                                             int16
//
// Reads only the codes of `a`. pair_sums may be null. Exact; nothing overlaps.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

using ConvSumsKernel = void(const Activations& a, int32_t* sums, int16_t* pair_sums);

#define EF_KERNEL(isa, symbol) ConvSumsKernel symbol;
#include "kernels/conv_sums/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ConvSumsKernel> ConvSumsKernels();

}  // namespace edgefold
