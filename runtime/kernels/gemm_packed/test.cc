// SPDX-License-Identifier: Apache-2.0
#include "base/scratch.h"
#include "kernels/gemm_packed/gemm_packed.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

std::vector<float> Floats(Random& random, int64_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = random.Uniform();
  return values;
}

void Case(Random& random, int bits, Tables tables, int64_t rows, int64_t k, bool is_unsigned,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmPackedKernel> kernels = GemmPackedKernels();
  const RandomMatrix m(random, bits, k, random.Range(1, 90), tables);
  const RandomRows a(random, rows, k, is_unsigned, random.Next() % 2 == 0);
  GemmPackedArguments g = {};
  g.matrix = &m.matrix;
  g.first_panel = random.Range(0, static_cast<int>(m.matrix.Panels()) - 1);
  const int most = static_cast<int>(m.matrix.n - g.first_panel * kPanelColumns);
  g.columns = random.Next() % 2 == 0 ? most : random.Range(1, most);
  g.a = a.activations;
  const std::vector<float> row_scales = Floats(random, rows);
  const std::vector<float> scales = Floats(random, g.columns);
  g.bias_is_scalar = random.Next() % 4 == 0;
  const std::vector<float> bias = Floats(random, g.bias_is_scalar ? 1 : g.columns);
  g.row_scales = row_scales.data();
  g.scales = scales.data();
  g.bias = bias.data();
  g.y_stride = g.columns + random.Range(0, 3);
  Guarded<float> expected(rows * g.y_stride);
  g.y = expected.data();
  gemm_packed_reference(g);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    const int64_t bytes = GemmPackedScratch(m.matrix);
    const Scratch decoded = AllocateScratch(bytes);
    std::memset(decoded.get(), 0xa5, bytes);
    g.decoded = decoded.get();
    Guarded<float> got(rows * g.y_stride);
    g.y = got.data();
    kernels.rows[i].run(g);
    char where[120];
    std::snprintf(where, sizeof where, "bits %d tables %d rows %d k %d columns %d unsigned %d",
                  bits, static_cast<int>(tables), static_cast<int>(rows), static_cast<int>(k),
                  static_cast<int>(g.columns), is_unsigned);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemmPacked() {
  std::vector<Tally> tallies = Tallies(GemmPackedKernels());
  Random random(23);
  for (int bits = 2; bits <= 8; ++bits) {
    for (Tables tables : kAllTables) {
      for (bool is_unsigned : {false, true}) {
        for (int64_t rows : {0, 1, 7, 8, 11, 17}) {
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
