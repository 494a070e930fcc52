// SPDX-License-Identifier: Apache-2.0
#include "kernels/unpack/unpack.h"

namespace edgefold {

void unpack_reference(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
                      int8_t* out) {
  for (int64_t u = 0; u < units; ++u) {
    for (int c = 0; c < kPanelColumns; ++c) {
      for (int kk = 0; kk < kUnitDepth; ++kk) {
        const int64_t k = (first_unit + u) * kUnitDepth + kk;
        *out++ = WeightAt(matrix, k, panel * kPanelColumns + c);
      }
    }
  }
}

}  // namespace edgefold
