// SPDX-License-Identifier: Apache-2.0
#include "ops/tap_pairs.h"

#include "kernels/unpack/unpack.h"

namespace edgefold {

void PairTaps(const int8_t* units, int64_t k, int16_t* pairs) {
  for (int64_t t = 0; t < (k + 1) / 2 * 2; ++t) {
    for (int c = 0; c < kPanelColumns; ++c) {
      pairs[t / 2 * 32 + c * 2 + t % 2] = t < k ? units[t / 4 * 64 + c * 4 + t % 4] : 0;
    }
  }
}

std::vector<int16_t> TapPairs(const PackedMatrix& matrix) {
  UnpackKernel* unpack = UnpackKernels().Choose().run;
  const int64_t values = TapPairValues(matrix.k);
  std::vector<int8_t> units(matrix.Units() * kUnitCodes);
  std::vector<int16_t> pairs(matrix.Panels() * values);
  for (int64_t p = 0; p < matrix.Panels(); ++p) {
    unpack(matrix, p, 0, matrix.Units(), units.data());
    PairTaps(units.data(), matrix.k, pairs.data() + p * values);
  }
  return pairs;
}

}  // namespace edgefold
