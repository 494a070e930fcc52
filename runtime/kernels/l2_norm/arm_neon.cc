// SPDX-License-Identifier: Apache-2.0
#include "kernels/l1_norm/arm_neon_rows.h"
#include "kernels/l2_norm/l2_norm.h"

namespace edgefold {
namespace {

class Variance {
 public:
  void Add(int16x8_t levels) {
    const int16x4_t high = vget_high_s16(levels);
    const int16x4_t low = vget_low_s16(levels);
    sums_ = vpadalq_s32(sums_, vmlal_s16(vmull_s16(low, low), high, high));
  }
  void Add(int16_t level) { rest_ += level * level; }

  float Scale(const L1NormArguments& n, int32_t sum, int32_t mean, float factor) const {
    const int64_t squares = L2NormSquares(n, sum, vaddvq_s64(sums_) + rest_, mean);
    return L2NormScale(n, squares, factor);
  }

 private:
  int64x2_t sums_ = vdupq_n_s64(0);
  int64_t rest_ = 0;
};

}  // namespace

void l2_norm_arm_neon(const L1NormArguments& n) { NormalizeRows<Variance>(n); }

}  // namespace edgefold
