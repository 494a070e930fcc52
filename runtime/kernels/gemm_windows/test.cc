// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/gemm_windows/gemm_windows.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

struct Size {
  int64_t rows, lines, units, panels;
};

// All codes and weights at the end of their range where `extreme`. Windows overlap where there are
// several lines.
void Case(Random& random, const Size& s, bool is_unsigned, bool extreme,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmWindowsKernel> kernels = GemmWindowsKernels();
  const int64_t line = kUnitDepth * s.units;
  const int64_t step = s.lines == 1 ? line + random.Range(0, 5) : random.Range(1, 40);
  std::vector<int64_t> offsets(s.lines);
  for (int64_t& offset : offsets) offset = s.lines == 1 ? 0 : random.Range(0, 300);
  // Exactly as many codes as the contract lets a kernel read, for the sanitizer.
  const int64_t last = *std::max_element(offsets.begin(), offsets.end());
  std::vector<uint8_t> codes(s.rows == 0 ? 0 : (s.rows - 1) * step + last + line);
  for (uint8_t& code : codes) {
    const int value = is_unsigned ? random.Range(0, 255) : random.Range(-127, 127);
    code = static_cast<uint8_t>(extreme ? (is_unsigned ? 255 : -127) : value);
  }
  const int64_t k = s.lines * line;
  std::vector<int8_t> weights(s.panels * k * kPanelColumns);
  std::vector<int32_t> totals(s.panels * kPanelColumns);
  const int64_t columns = s.panels * kPanelColumns - random.Range(0, kPanelColumns - 1);
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t panel = static_cast<int64_t>(i) / (k * kPanelColumns);
    const int64_t column = panel * kPanelColumns + i % kUnitCodes / kUnitDepth;
    if (column >= columns) continue;
    weights[i] = static_cast<int8_t>(extreme ? -127 : random.Range(-127, 127));
    totals[column] += weights[i];
  }
  const int64_t acc_stride = s.panels * kPanelColumns + random.Range(0, 3);
  Guarded<int32_t> expected(s.rows * acc_stride);
  GemmWindowsArguments g = {
      codes.data(),   is_unsigned,   step,     s.rows,  offsets.data(),  s.lines,   s.units,
      weights.data(), totals.data(), s.panels, columns, expected.data(), acc_stride};
  gemm_windows_reference(g);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(s.rows * acc_stride);
    g.acc = got.data();
    kernels.rows[i].run(g);
    char where[120];
    std::snprintf(where, sizeof where, "rows %d lines %d units %d panels %d unsigned %d extreme %d",
                  static_cast<int>(s.rows), static_cast<int>(s.lines), static_cast<int>(s.units),
                  static_cast<int>(s.panels), is_unsigned, extreme);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemmWindows() {
  std::vector<Tally> tallies = Tallies(GemmWindowsKernels());
  Random random(29);
  for (bool is_unsigned : {false, true}) {
    for (bool extreme : {false, true}) {
      for (int64_t panels : {1, 2, 3, 4, 5}) {
        for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25}) {
          Case(random, {rows, 1, random.Range(1, 9), panels}, is_unsigned, extreme, tallies);
          Case(random, {rows, 3, random.Range(1, 9), panels}, is_unsigned, extreme, tallies);
        }
      }
      Case(random, {1, 1, 16384, 1}, is_unsigned, extreme, tallies);
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
