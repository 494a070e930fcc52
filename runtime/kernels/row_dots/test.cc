// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_dots/row_dots.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// Codes at the ends of their range where `extreme`; a cache may hold -128 too.
void Case(Random& random, int64_t x_rows, int64_t count, int64_t depth, bool extreme,
          std::vector<Tally>& tallies) {
  const KernelTable<RowDotsKernel> kernels = RowDotsKernels();
  const RandomRows x(random, x_rows, depth, false, extreme);
  const int64_t stride = depth + random.Range(0, 3);
  std::vector<int8_t> rows(count == 0 ? 0 : (count - 1) * stride + depth);
  for (int8_t& code : rows) {
    code = static_cast<int8_t>(extreme ? -128 : random.Range(-128, 127));
  }
  RowDotsArguments d = {};
  d.x = reinterpret_cast<const int8_t*>(x.activations.codes);
  d.x_stride = x.activations.stride;
  d.x_rows = x_rows;
  d.rows = rows.data();
  d.stride = stride;
  d.count = count;
  d.depth = depth;
  d.acc_stride = count + random.Range(0, 3);
  Guarded<int32_t> expected(x_rows * d.acc_stride);
  d.acc = expected.data();
  row_dots_reference(d);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(x_rows * d.acc_stride);
    d.acc = got.data();
    kernels.rows[i].run(d);
    char where[100];
    std::snprintf(where, sizeof where, "x rows %d count %d depth %d extreme %d",
                  static_cast<int>(x_rows), static_cast<int>(count), static_cast<int>(depth),
                  extreme);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestRowDots() {
  std::vector<Tally> tallies = Tallies(RowDotsKernels());
  Random random(43);
  for (bool extreme : {false, true}) {
    for (int64_t x_rows : {0, 1, 3, 8, 9}) {
      for (int64_t count : {0, 1, 7, 8, 9, 15, 16, 17, 40}) {
        for (int64_t depth : {1, 15, 16, 31, 32, 33, 63, 64, 65, 130}) {
          Case(random, x_rows, count, depth, extreme, tallies);
        }
      }
    }
    Case(random, 1, 1, 65536, extreme, tallies);
  }
  return tallies;
}

}  // namespace edgefold::selftest
