// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_sums/row_sums.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// Weights and codes at the ends of their range where `extreme`; a cache may hold -128 too.
void Case(Random& random, int64_t weight_rows, int64_t count, int64_t columns, bool extreme,
          std::vector<Tally>& tallies) {
  const KernelTable<RowSumsKernel> kernels = RowSumsKernels();
  const RandomRows weights(random, weight_rows, count, true, extreme);
  const int64_t stride = columns + random.Range(0, 3);
  std::vector<int8_t> rows(count == 0 ? 0 : (count - 1) * stride + columns);
  for (int8_t& code : rows) {
    code = static_cast<int8_t>(extreme ? -128 : random.Range(-128, 127));
  }
  RowSumsArguments s = {};
  s.weights = weights.activations.codes;
  s.weight_stride = weights.activations.stride;
  s.weight_rows = weight_rows;
  s.rows = rows.data();
  s.stride = stride;
  s.count = count;
  s.columns = columns;
  s.acc_stride = columns + random.Range(0, 3);
  Guarded<int32_t> expected(weight_rows * s.acc_stride);
  s.acc = expected.data();
  row_sums_reference(s);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(weight_rows * s.acc_stride);
    s.acc = got.data();
    kernels.rows[i].run(s);
    char where[100];
    std::snprintf(where, sizeof where, "weight rows %d count %d columns %d extreme %d",
                  static_cast<int>(weight_rows), static_cast<int>(count), static_cast<int>(columns),
                  extreme);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestRowSums() {
  std::vector<Tally> tallies = Tallies(RowSumsKernels());
  Random random(47);
  for (bool extreme : {false, true}) {
    for (int64_t weight_rows : {0, 1, 3, 4, 5, 9}) {
      for (int64_t count : {0, 1, 2, 3, 4, 5, 31, 33}) {
        for (int64_t columns : {0, 1, 7, 15, 16, 17, 63, 64, 65, 130}) {
          Case(random, weight_rows, count, columns, extreme, tallies);
        }
      }
    }
    Case(random, 1, 65535, 20, extreme, tallies);
  }
  return tallies;
}

}  // namespace edgefold::selftest
