// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak/peak.h"
#include "selftest.h"

namespace edgefold::selftest {

// What the loops compute means nothing; that they count what they do is all there is to check.
std::vector<Tally> TestPeak() {
  const KernelTable<PeakKernel> kernels = PeakKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Guarded<uint8_t> buffer(4 * kPeakBlock);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    PeakKernel* run = kernels.rows[i].run;
    const auto work = [&](PeakLoop loop, int64_t times) {
      return run(loop, times, buffer.data(), 4 * kPeakBlock);
    };
    for (PeakLoop loop : {PeakLoop::kFloat, PeakLoop::kInteger, PeakLoop::kRead}) {
      tallies[i].Check(work(loop, 0) == 0, "no turns");
      tallies[i].Check(work(loop, 1) > 0 && work(loop, 5) == 5 * work(loop, 1), "turns");
    }
    tallies[i].Check(work(PeakLoop::kRead, 3) == 12 * kPeakBlock, "bytes");
  }
  return tallies;
}

}  // namespace edgefold::selftest
