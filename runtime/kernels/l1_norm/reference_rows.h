// SPDX-License-Identifier: Apache-2.0
// Rows to levels and levels to results, one element at a time: for the norms' references.
#pragma once

#include "kernels/l1_norm/elements.h"

namespace edgefold {
namespace {

inline float RowFactor(const L1NormArguments& n, int64_t m) {
  if (n.x == nullptr) return kL1NormByteFactor;
  float absmax = 0.0f;
  for (int64_t i = 0; i < n.columns; ++i) absmax = LargerMagnitude(n.x[m * n.columns + i], absmax);
  return Factor(absmax);
}

// scale(mean, factor) is what a row is multiplied by; the scratch row holds its levels then.
template <typename RowScale>
void NormalizeRows(const L1NormArguments& n, const RowScale& scale) {
  for (int64_t m = 0; m < n.rows; ++m) {
    const float factor = RowFactor(n, m);
    int32_t sum = 0;
    for (int64_t i = 0; i < n.columns; ++i) {
      n.scratch[i] = Level(n, m, i, factor);
      sum += n.scratch[i];
    }
    const int32_t mean = Mean(n, sum);
    const float by = scale(mean, factor);
    for (int64_t i = 0; i < n.columns; ++i) Store(n, m, i, n.scratch[i] - mean, by);
  }
}

}  // namespace
}  // namespace edgefold
