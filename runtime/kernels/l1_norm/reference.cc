// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "kernels/l1_norm/reference_rows.h"

namespace edgefold {

void l1_norm_reference(const L1NormArguments& n) {
  NormalizeRows(n, [&](int32_t mean, float factor) {
    int32_t deviation = 0;
    for (int64_t i = 0; i < n.columns; ++i) deviation += std::abs(n.scratch[i] - mean);
    return Scale(n, deviation, factor);
  });
}

}  // namespace edgefold
