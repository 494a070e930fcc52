// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_dots/row_dots.h"

namespace edgefold {

void row_dots_reference(const RowDotsArguments& d) {
  for (int64_t m = 0; m < d.x_rows; ++m) {
    const int8_t* x = d.x + m * d.x_stride;
    for (int64_t n = 0; n < d.count; ++n) {
      const int8_t* row = d.rows + n * d.stride;
      int32_t sum = 0;
      for (int64_t k = 0; k < d.depth; ++k) sum += x[k] * row[k];
      d.acc[m * d.acc_stride + n] = sum;
    }
  }
}

}  // namespace edgefold
