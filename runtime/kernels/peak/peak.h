// SPDX-License-Identifier: Apache-2.0
// The ceilings of a machine: loops that do one kind of work and nothing else.
//
//   kFloat    multiply-adds of float32 in registers
//   kInteger  multiply-adds of 8-bit factors in registers, by the instructions of the integer
//             kernels: the multiplication and one addition to the sums (AVX2: maddubs and a 16-bit
//             add, whose widening is left out, since a kernel shares one among many products)
//   kRead     loads from `buffer`, `bytes` of it (a multiple of kPeakBlock) in each of `times`
//   turns
//
// The first two leave the buffer alone. Returns the work done: operations, two a multiply-add, or
// bytes. What the loops compute means nothing. times >= 0.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

enum class PeakLoop { kFloat, kInteger, kRead };
inline constexpr int64_t kPeakBlock = 512;  // bytes

using PeakKernel = uint64_t(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes);

#define EF_KERNEL(isa, symbol) PeakKernel symbol;
#include "kernels/peak/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<PeakKernel> PeakKernels();

}  // namespace edgefold
