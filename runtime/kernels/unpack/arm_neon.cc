// SPDX-License-Identifier: Apache-2.0
#include "base/arm_neon_codes.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {

void unpack_arm_neon(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
                     int8_t* out) {
  Decode(matrix, TableBytes(matrix), panel, first_unit, units, out);
}

}  // namespace edgefold
