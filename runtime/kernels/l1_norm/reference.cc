// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "kernels/l1_norm/elements.h"

namespace edgefold {

void l1_norm_reference(const L1NormArguments& n) {
  for (int64_t m = 0; m < n.rows; ++m) {
    float factor = kL1NormByteFactor;
    if (n.x != nullptr) {
      float absmax = 0.0f;
      for (int64_t i = 0; i < n.columns; ++i) {
        absmax = LargerMagnitude(n.x[m * n.columns + i], absmax);
      }
      factor = Factor(absmax);
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < n.columns; ++i) {
      n.scratch[i] = Level(n, m, i, factor);
      sum += n.scratch[i];
    }
    const int32_t mean = Mean(n, sum);
    int32_t deviation = 0;
    for (int64_t i = 0; i < n.columns; ++i) deviation += std::abs(n.scratch[i] - mean);
    const float scale = Scale(n, deviation, factor);
    for (int64_t i = 0; i < n.columns; ++i) Store(n, m, i, n.scratch[i] - mean, scale);
  }
}

}  // namespace edgefold
