// SPDX-License-Identifier: Apache-2.0
// Runs every variant of every kernel family against its reference. No framework, no files, no
// arguments: it must run on a bare emulator. Exit code 1 where anything failed.
#include "selftest.h"

namespace edgefold::selftest {

#define EF_TEST(family) std::vector<Tally> family();
#include "kernels/tests.inc"
#undef EF_TEST

namespace {

struct Totals {
  int passed = 0;
  int failed = 0;
  int skipped = 0;

  void Add(const std::vector<Tally>& tallies) {
    for (const Tally& tally : tallies) {
      passed += tally.passed;
      failed += tally.failed;
      skipped += tally.supported ? 0 : 1;
      if (!tally.supported) {
        std::printf("%-28s skipped: this CPU cannot run it\n", tally.name);
      } else {
        std::printf("%-28s %d passed, %d failed\n", tally.name, tally.passed, tally.failed);
      }
      std::fflush(stdout);
    }
  }
};

}  // namespace
}  // namespace edgefold::selftest

int main() {
  edgefold::selftest::Totals totals;
#define EF_TEST(family) totals.Add(edgefold::selftest::family());
#include "kernels/tests.inc"
#undef EF_TEST
  std::printf("%d passed, %d failed, %d skipped\n", totals.passed, totals.failed, totals.skipped);
  return totals.failed == 0 ? 0 : 1;
}
