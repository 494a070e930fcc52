// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "kernels/l1_norm/arm_neon_rows.h"

namespace edgefold {
namespace {

// The mean absolute deviation, for which the mean has to be known: a pass of its own.
struct Deviation {
  void Add(int16x8_t /*levels*/) {}
  void Add(int16_t /*level*/) {}

  float Scale(const L1NormArguments& n, int32_t /*sum*/, int32_t mean, float factor) const {
    const int16x8_t centre = vdupq_n_s16(static_cast<int16_t>(mean));
    int32x4_t sums = vdupq_n_s32(0);
    int64_t i = 0;
    for (; i + kStep <= n.columns; i += kStep) {
      sums = vpadalq_s16(sums, vabdq_s16(vld1q_s16(n.scratch + i), centre));
    }
    int32_t sum = vaddvq_s32(sums);
    for (; i < n.columns; ++i) sum += std::abs(n.scratch[i] - mean);
    return edgefold::Scale(n, sum, factor);
  }
};

}  // namespace

void l1_norm_arm_neon(const L1NormArguments& n) { NormalizeRows<Deviation>(n); }

}  // namespace edgefold
