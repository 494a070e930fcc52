// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_sums/conv_sums.h"

namespace edgefold {

void conv_sums_reference(const Activations& a, int32_t* sums, int16_t* pair_sums) {
  for (int64_t m = 0; m < a.rows; ++m) {
    sums[m] = 0;
    for (int64_t half = 0; half < a.groups * 2; ++half) {
      int32_t pairs[2] = {0, 0};
      for (int k = 0; k < kGroupDepth / 2; ++k) {
        pairs[k % 4 / 2] += static_cast<int8_t>(a.Row(m)[half * (kGroupDepth / 2) + k]);
      }
      sums[m] += pairs[0] + pairs[1];
      if (pair_sums == nullptr) continue;
      *pair_sums++ = static_cast<int16_t>(pairs[0]);
      *pair_sums++ = static_cast<int16_t>(pairs[1]);
    }
  }
}

}  // namespace edgefold
