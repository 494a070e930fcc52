// SPDX-License-Identifier: Apache-2.0
#include "kernels/epilogue/epilogue.h"
#include "selftest.h"

namespace edgefold::selftest {

std::vector<Tally> TestEpilogue() {
  const KernelTable<EpilogueKernel> kernels = EpilogueKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(7);
  for (int64_t rows : {0, 1, 2, 5}) {
    for (int64_t columns : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32}) {
      for (bool scalar : {false, true}) {
        const int64_t acc_stride = columns + random.Range(0, 3);
        std::vector<int32_t> acc(rows * acc_stride);
        std::vector<float> row_scales(rows), scales(columns), bias(scalar ? 1 : columns);
        for (int32_t& value : acc) value = static_cast<int32_t>(random.Next());
        for (float& value : row_scales) value = random.Uniform();
        for (float& value : scales) value = random.Uniform();
        for (float& value : bias) value = random.Uniform() * 1e6f;
        EpilogueArguments e = {};
        e.acc = acc.data();
        e.acc_stride = acc_stride;
        e.rows = rows;
        e.columns = columns;
        e.row_scales = row_scales.data();
        e.scales = scales.data();
        e.bias = bias.data();
        e.bias_is_scalar = scalar;
        e.y_stride = columns + 1;
        Guarded<float> expected(rows * e.y_stride);
        e.y = expected.data();
        epilogue_reference(e);
        for (size_t i = 0; i < kernels.size; ++i) {
          if (!tallies[i].supported) continue;
          Guarded<float> got(rows * e.y_stride);
          e.y = got.data();
          kernels.rows[i].run(e);
          char where[60];
          std::snprintf(where, sizeof where, "rows %d columns %d scalar %d", static_cast<int>(rows),
                        static_cast<int>(columns), scalar);
          tallies[i].Check(got.Equals(expected), where);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
