// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemv/gemv.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int bits, Tables tables, int64_t rows, int64_t k, bool is_unsigned,
          std::vector<Tally>& tallies) {
  const KernelTable<GemvKernel> kernels = GemvKernels();
  const RandomMatrix m(random, bits, k, random.Range(1, 70), tables);
  const bool extreme = random.Next() % 2 == 0;
  const RandomRows a(random, rows, k, is_unsigned, extreme);
  const int64_t first = random.Range(0, static_cast<int>(m.matrix.Panels()) - 1);
  const int64_t panels = random.Range(1, static_cast<int>(m.matrix.Panels() - first));
  const int64_t stride = panels * kPanelColumns + random.Range(0, 3);
  Guarded<int32_t> expected(rows * stride);
  gemv_reference(m.matrix, first, panels, a.activations, expected.data(), stride);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(rows * stride);
    kernels.rows[i].run(m.matrix, first, panels, a.activations, got.data(), stride);
    char where[120];
    std::snprintf(where, sizeof where, "bits %d tables %d rows %d k %d panels %d unsigned %d", bits,
                  static_cast<int>(tables), static_cast<int>(rows), static_cast<int>(k),
                  static_cast<int>(panels), is_unsigned);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemv() {
  std::vector<Tally> tallies = Tallies(GemvKernels());
  Random random(4);
  for (int bits = 2; bits <= 8; ++bits) {
    for (Tables tables : kAllTables) {
      for (bool is_unsigned : {false, true}) {
        for (int64_t rows : {0, 1, 2, 3, 5, 9}) {
          for (int64_t k : {1, 31, 32, 67, 131}) {
            Case(random, bits, tables, rows, k, is_unsigned, tallies);
          }
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
