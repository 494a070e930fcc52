// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/gemm_wide/gemm_wide.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// All codes and weights at the end of their range where `extreme`. Rows overlap where there are
// several lines.
void Case(Random& random, int64_t rows, int64_t lines, int64_t pairs, int64_t panels, bool extreme,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmWideKernel> kernels = GemmWideKernels();
  const int64_t stride = lines == 1 ? 2 * pairs + random.Range(0, 5) : random.Range(1, 40);
  std::vector<int64_t> offsets(lines);
  for (int64_t& offset : offsets) offset = lines == 1 ? 0 : random.Range(0, 300);
  // Exactly as many codes as the contract lets a kernel read, for the sanitizer.
  const int64_t last = *std::max_element(offsets.begin(), offsets.end());
  std::vector<int16_t> codes(rows == 0 ? 0 : (rows - 1) * stride + last + 2 * pairs);
  for (int16_t& code : codes) code = static_cast<int16_t>(extreme ? 255 : random.Range(-127, 255));
  std::vector<int16_t> weights(panels * lines * pairs * 2 * kPanelColumns);
  for (int16_t& w : weights) w = static_cast<int16_t>(extreme ? -127 : random.Range(-127, 127));
  const int64_t acc_stride = panels * kPanelColumns + random.Range(0, 3);
  Guarded<int32_t> expected(rows * acc_stride);
  GemmWideArguments g = {codes.data(), stride,         rows,   offsets.data(),  lines,
                         pairs,        weights.data(), panels, expected.data(), acc_stride};
  gemm_wide_reference(g);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(rows * acc_stride);
    g.acc = got.data();
    kernels.rows[i].run(g);
    char where[100];
    std::snprintf(where, sizeof where, "rows %d lines %d pairs %d panels %d extreme %d",
                  static_cast<int>(rows), static_cast<int>(lines), static_cast<int>(pairs),
                  static_cast<int>(panels), extreme);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemmWide() {
  std::vector<Tally> tallies = Tallies(GemmWideKernels());
  Random random(23);
  for (bool extreme : {false, true}) {
    for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13}) {
      for (int64_t pairs : {1, 2, 5, 16, 33}) {
        Case(random, rows, 1, pairs, random.Range(1, 3), extreme, tallies);
        Case(random, rows, 3, pairs, random.Range(1, 3), extreme, tallies);
      }
    }
    Case(random, 1, 1, 32768, 1, extreme, tallies);
  }
  return tallies;
}

}  // namespace edgefold::selftest
