// SPDX-License-Identifier: Apache-2.0
#include "kernels/l1_norm/reference_rows.h"
#include "kernels/l2_norm/l2_norm.h"

namespace edgefold {

// The squares by their definition, which the identity of the variants must equal.
void l2_norm_reference(const L1NormArguments& n) {
  NormalizeRows(n, [&](int32_t mean, float factor) {
    int64_t squares = 0;
    for (int64_t i = 0; i < n.columns; ++i) {
      const int64_t difference = n.scratch[i] - mean;
      squares += difference * difference;
    }
    return L2NormScale(n, squares, factor);
  });
}

}  // namespace edgefold
