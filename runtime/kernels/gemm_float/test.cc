// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/gemm_float/gemm_float.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// The contract's bound, on both sides of the reference.
bool Close(const std::vector<float>& x, const std::vector<int8_t>& panel, int64_t k, int64_t m,
           int c, float got, float expected) {
  double magnitude = 0;
  for (int64_t i = 0; i < k; ++i) {
    magnitude += std::fabs(static_cast<double>(x[m * k + i]) * panel[i / 4 * 64 + c * 4 + i % 4]);
  }
  return std::fabs(static_cast<double>(got) - expected) <=
         2 * static_cast<double>(k) * 0x1p-24 * magnitude;
}

}  // namespace

std::vector<Tally> TestGemmFloat() {
  const KernelTable<GemmFloatKernel> kernels = GemmFloatKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(6);
  for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 9}) {
    for (int64_t k : {1, 2, 3, 4, 5, 31, 32, 61}) {
      std::vector<float> x(rows * k);
      std::vector<int8_t> panel((k + 3) / 4 * 64);
      for (float& value : x) value = random.Uniform();
      for (int8_t& w : panel) w = static_cast<int8_t>(random.Range(-127, 127));
      std::vector<float> expected(rows * 16);
      gemm_float_reference(x.data(), k, rows, k, panel.data(), expected.data(), 16);
      for (size_t i = 0; i < kernels.size; ++i) {
        if (!tallies[i].supported) continue;
        Guarded<float> got(rows * 16);
        kernels.rows[i].run(x.data(), k, rows, k, panel.data(), got.data(), 16);
        bool right = got.Intact();
        for (int64_t j = 0; j < rows * 16; ++j) {
          right &= Close(x, panel, k, j / 16, j % 16, got.data()[j], expected[j]);
        }
        char where[60];
        std::snprintf(where, sizeof where, "rows %d k %d", static_cast<int>(rows),
                      static_cast<int>(k));
        tallies[i].Check(right, where);
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
