// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/gemm.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// Weights all 127 where `extreme`.
void Case(Random& random, int64_t rows, int64_t k, int64_t panels, bool is_unsigned, bool extreme,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmKernel> kernels = GemmKernels();
  const RandomRows a(random, rows, k, is_unsigned, extreme);
  const int64_t units = (k + kUnitDepth - 1) / kUnitDepth;
  std::vector<int8_t> weights(panels * units * kUnitCodes);
  for (int8_t& w : weights) w = static_cast<int8_t>(extreme ? 127 : random.Range(-127, 127));
  const int64_t stride = panels * kPanelColumns + random.Range(0, 3);
  Guarded<int32_t> expected(rows * stride);
  gemm_reference(a.activations, weights.data(), panels, units, expected.data(), stride);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(rows * stride);
    kernels.rows[i].run(a.activations, weights.data(), panels, units, got.data(), stride);
    char where[100];
    std::snprintf(where, sizeof where, "rows %d k %d panels %d unsigned %d extreme %d",
                  static_cast<int>(rows), static_cast<int>(k), static_cast<int>(panels),
                  is_unsigned, extreme);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemm() {
  std::vector<Tally> tallies = Tallies(GemmKernels());
  Random random(2);
  for (bool is_unsigned : {false, true}) {
    for (bool extreme : {false, true}) {
      for (int64_t rows : {0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 17}) {
        for (int64_t k : {1, 3, 4, 5, 31, 32, 61, 96, 131}) {
          Case(random, rows, k, random.Range(1, 3), is_unsigned, extreme, tallies);
        }
      }
      Case(random, 1, 65536, 1, is_unsigned, extreme, tallies);
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
