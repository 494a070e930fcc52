// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_sums/conv_sums.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int64_t rows, int64_t k, bool extreme, std::vector<Tally>& tallies) {
  const KernelTable<ConvSumsKernel> kernels = ConvSumsKernels();
  const RandomRows a(random, rows, k, false, extreme);
  Guarded<int32_t> sums(rows);
  Guarded<int16_t> pair_sums(rows * a.activations.groups * 4);
  conv_sums_reference(a.activations, sums.data(), pair_sums.data());
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(rows);
    Guarded<int16_t> got_pairs(rows * a.activations.groups * 4);
    kernels.rows[i].run(a.activations, got.data(), got_pairs.data());
    Guarded<int32_t> alone(rows);
    kernels.rows[i].run(a.activations, alone.data(), nullptr);
    char where[100];
    std::snprintf(where, sizeof where, "rows %d k %d extreme %d", static_cast<int>(rows),
                  static_cast<int>(k), extreme);
    tallies[i].Check(got.Equals(sums) && alone.Equals(sums) && got_pairs.Equals(pair_sums), where);
  }
}

}  // namespace

std::vector<Tally> TestConvSums() {
  std::vector<Tally> tallies = Tallies(ConvSumsKernels());
  Random random(14);
  for (bool extreme : {false, true}) {
    for (int64_t rows : {0, 1, 2, 5}) {
      for (int64_t k : {1, 31, 32, 33, 144, 576}) Case(random, rows, k, extreme, tallies);
    }
    Case(random, 1, 65536, extreme, tallies);
  }
  return tallies;
}

}  // namespace edgefold::selftest
