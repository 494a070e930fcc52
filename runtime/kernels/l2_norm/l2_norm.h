// SPDX-License-Identifier: Apache-2.0
// Rows divided by their standard deviation: what l1_norm is measured against, by the same means.
// No operator uses it.
//
// Arguments, levels t, mean, differences d and results are those of l1_norm, and
//
//   squares = sum d^2 = sum t^2 - 2 * mean * sum t + columns * mean^2                      int64
//   scale   = 1 / sqrt(float(squares) / float(columns) + epsilon * factor * factor)
//
// epsilon is in units of x^2, as in LayerNormalization. Sums of integers do not cancel, so the
// squares are summed while levels are made, before the mean is known: the row is read once less
// than by l1_norm. A divisor of 0 gives scale = 0.
#pragma once

#include <cmath>

#include "kernels/l1_norm/l1_norm.h"

namespace edgefold {

using L2NormKernel = L1NormKernel;

inline float L2NormScale(const L1NormArguments& n, int64_t squares, float factor) {
  const float variance = static_cast<float>(squares) / static_cast<float>(n.columns);
  const float divisor = std::sqrt(variance + n.epsilon * factor * factor);
  return divisor > 0.0f ? 1.0f / divisor : 0.0f;
}

// sum d^2 from sum t and sum t^2.
inline int64_t L2NormSquares(const L1NormArguments& n, int64_t sum, int64_t squares, int64_t mean) {
  return squares - 2 * mean * sum + n.columns * mean * mean;
}

#define EF_KERNEL(isa, symbol) L2NormKernel symbol;
#include "kernels/l2_norm/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<L2NormKernel> L2NormKernels();

}  // namespace edgefold
