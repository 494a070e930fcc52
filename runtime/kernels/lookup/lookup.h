// SPDX-License-Identifier: Apache-2.0
// y[i] = table[x[i]] of bytes, i < count: any function of one byte.
//
// The table has 256 entries. Nothing overlaps; no pointer needs alignment. Exact.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

using LookupKernel = void(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y);

#define EF_KERNEL(isa, symbol) LookupKernel symbol;
#include "kernels/lookup/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<LookupKernel> LookupKernels();

}  // namespace edgefold
