// SPDX-License-Identifier: Apache-2.0
#include "kernels/lookup/lookup.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int64_t count, std::vector<Tally>& tallies) {
  const KernelTable<LookupKernel> kernels = LookupKernels();
  std::vector<uint8_t> x(count);
  std::vector<uint8_t> table(256);
  for (uint8_t& value : x) value = static_cast<uint8_t>(random.Range(0, 255));
  for (uint8_t& value : table) value = static_cast<uint8_t>(random.Range(0, 255));
  Guarded<uint8_t> expected(count);
  lookup_reference(x.data(), count, table.data(), expected.data());
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<uint8_t> got(count);
    kernels.rows[i].run(x.data(), count, table.data(), got.data());
    char where[40];
    std::snprintf(where, sizeof where, "%d bytes", static_cast<int>(count));
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestLookup() {
  std::vector<Tally> tallies = Tallies(LookupKernels());
  Random random(31);
  for (int64_t count : {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000, 4096})
    Case(random, count, tallies);
  return tallies;
}

}  // namespace edgefold::selftest
