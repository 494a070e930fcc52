// SPDX-License-Identifier: Apache-2.0
#include "kernels/unpack/unpack.h"
#include "selftest.h"

namespace edgefold::selftest {

std::vector<Tally> TestUnpack() {
  const KernelTable<UnpackKernel> kernels = UnpackKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(1);
  for (int bits = 2; bits <= 8; ++bits) {
    for (Tables tables : kAllTables) {
      for (int64_t k : {1, 4, 31, 32, 33, 67, 160}) {
        const int64_t n = random.Range(1, 40);
        const RandomMatrix m(random, bits, k, n, tables);
        const int64_t panel = random.Range(0, static_cast<int>(m.matrix.Panels()) - 1);
        const int64_t first =
            random.Range(0, static_cast<int>(m.matrix.Groups()) - 1) * kGroupUnits;
        const int64_t units = random.Range(1, static_cast<int>(m.matrix.Units() - first));
        Guarded<int8_t> expected(units * kUnitCodes);
        unpack_reference(m.matrix, panel, first, units, expected.data());
        for (size_t i = 0; i < kernels.size; ++i) {
          if (!tallies[i].supported) continue;
          Guarded<int8_t> got(units * kUnitCodes);
          kernels.rows[i].run(m.matrix, panel, first, units, got.data());
          char where[100];
          std::snprintf(where, sizeof where, "bits %d tables %d k %d units %d from %d", bits,
                        static_cast<int>(tables), static_cast<int>(k), static_cast<int>(units),
                        static_cast<int>(first));
          tallies[i].Check(got.Equals(expected), where);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
