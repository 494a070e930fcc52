// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels/row_sums/row_sums.h"

namespace edgefold {

void row_sums_reference(const RowSumsArguments& s) {
  for (int64_t m = 0; m < s.weight_rows; ++m) {
    int32_t* acc = s.acc + m * s.acc_stride;
    std::memset(acc, 0, static_cast<size_t>(s.columns) * sizeof *acc);
    for (int64_t n = 0; n < s.count; ++n) {
      const int32_t weight = s.weights[m * s.weight_stride + n];
      const int8_t* row = s.rows + n * s.stride;
      for (int64_t c = 0; c < s.columns; ++c) acc[c] += weight * row[c];
    }
  }
}

}  // namespace edgefold
