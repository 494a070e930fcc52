// SPDX-License-Identifier: Apache-2.0
#include "base/scratch.h"
#include "kernels/arrange/arrange.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int64_t rows, int64_t k, bool is_unsigned, int run_units,
          std::vector<Tally>& tallies) {
  const KernelTable<ArrangeKernel> kernels = ArrangeKernels();
  const RandomRows a(random, rows, k, is_unsigned, random.Next() % 2 == 0);
  const int64_t first = random.Range(0, 3);  // some rows of a taller operand
  ArrangedRows out = {
      nullptr,   first + rows + random.Range(0, 3),    a.activations.groups, is_unsigned,
      run_units, is_unsigned ? 0 : random.Range(0, 63)};
  const size_t bytes = static_cast<size_t>(out.Bytes());
  const Scratch expected = AllocateScratch(out.Bytes() + 64);
  const Scratch got = AllocateScratch(out.Bytes() + 64);  // 64 bytes to see whether they stay
  std::memset(expected.get(), 0xa5, bytes + 64);
  out.blocks = expected.get();
  arrange_reference(a.activations, first, out);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    std::memset(got.get(), 0xa5, bytes + 64);
    out.blocks = got.get();
    kernels.rows[i].run(a.activations, first, out);
    char where[100];
    std::snprintf(where, sizeof where, "rows %d k %d unsigned %d run %d", static_cast<int>(rows),
                  static_cast<int>(k), is_unsigned, run_units);
    tallies[i].Check(std::memcmp(got.get(), expected.get(), bytes + 64) == 0, where);
  }
}

}  // namespace

std::vector<Tally> TestArrange() {
  std::vector<Tally> tallies = Tallies(ArrangeKernels());
  Random random(17);
  for (int64_t rows : {0, 1, 2, 5, 16}) {
    for (int64_t k : {1, 31, 32, 33, 64, 65, 131, 800}) {
      for (int run_units : {4, 8, 16}) {
        Case(random, rows, k, false, run_units, tallies);
        Case(random, rows, k, true, run_units, tallies);
      }
      Case(random, rows, k, true, 2, tallies);
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
