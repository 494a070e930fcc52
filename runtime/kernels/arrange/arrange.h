// SPDX-License-Identifier: Apache-2.0
// Rows of codes in the order in which gemm_shift reads them: two runs of k side by side.
//
// A block holds groups 2 * b and 2 * b + 1 of all rows, or, where it is the last of an odd number,
// the halves of its one group: depth = 64 or 32 codes of a row. Codes [rows][depth], then, for int8
// rows, offsets [rows][Runs(b)][2] int16. Of a row's codes
//
//   codes[4 * j + 2 * h + i] = code of k = 64 * b + h * depth / 2 + 2 * j + i
//
// for h, i = 0, 1 and j < depth / 4, so that the two 16-bit lanes of a column add products of one
// group each, and sums over a run of units meet their factors in one multiplication.
// offsets[run][h] is -bias times the sum of the lane's codes over the run, modulo 2^16: what takes
// back a `bias` added to every level.
#pragma once

#include "base/activations.h"
#include "base/kernel.h"
#include "base/packed_matrix.h"

namespace edgefold {

inline constexpr int kBlockGroups = 2;
inline constexpr int kBlockUnits = kBlockGroups * kGroupUnits;
inline constexpr int64_t kBlockDepth = kBlockGroups * kGroupDepth;

struct ArrangedRows {
  uint8_t* blocks;  // [Blocks()][BlockBytes()], 64-byte aligned
  int64_t rows;
  int64_t groups;
  bool is_unsigned;
  int run_units;  // 2, 4, 8 or 16
  int bias;       // 0..63

  int64_t Blocks() const { return (groups + kBlockGroups - 1) / kBlockGroups; }
  int64_t Units(int64_t block) const {
    return (block + 1) * kBlockGroups <= groups ? kBlockUnits : kGroupUnits;
  }
  int64_t Depth(int64_t block) const { return Units(block) * kUnitDepth; }
  int64_t Runs(int64_t block) const {
    return Units(block) < run_units ? 1 : Units(block) / run_units;
  }
  // From one block to the next.
  int64_t BlockBytes() const {
    const int64_t offsets = is_unsigned ? 0 : rows * (kBlockUnits / run_units) * 4;
    return rows * kBlockDepth + (offsets + 63) / 64 * 64;
  }
  int64_t Bytes() const { return Blocks() * BlockBytes(); }
  uint8_t* Codes(int64_t block) const { return blocks + block * BlockBytes(); }
  int32_t* Offsets(int64_t block) const {
    return reinterpret_cast<int32_t*>(Codes(block) + rows * Depth(block));
  }
};

// Writes rows [first, first + a.rows) of out.blocks, within out.rows; a has out.groups groups.
using ArrangeKernel = void(const Activations& a, int64_t first, const ArrangedRows& out);

#define EF_KERNEL(isa, symbol) ArrangeKernel symbol;
#include "kernels/arrange/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ArrangeKernel> ArrangeKernels();

}  // namespace edgefold
