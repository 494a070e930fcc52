// SPDX-License-Identifier: Apache-2.0
#include "base/scratch.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int bits, Tables tables, int64_t rows, int64_t k, bool is_unsigned,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmShiftKernel> kernels = GemmShiftKernels();
  const RandomMatrix m(random, bits, k, random.Range(1, 40), tables);
  const bool extreme = random.Next() % 2 == 0;
  const RandomRows a(random, rows, k, is_unsigned, extreme);
  const int64_t panel = random.Range(0, static_cast<int>(m.matrix.Panels()) - 1);
  const int64_t stride = kPanelColumns + random.Range(0, 3);
  Guarded<int32_t> expected(rows * stride);
  gemm_shift_reference(m.matrix, panel, a.activations, nullptr, expected.data(), stride);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    const Scratch scratch = AllocateScratch(GemmShiftScratch(m.matrix));
    std::memset(scratch.get(), 0xa5, GemmShiftScratch(m.matrix));
    Guarded<int32_t> got(rows * stride);
    kernels.rows[i].run(m.matrix, panel, a.activations, scratch.get(), got.data(), stride);
    char where[100];
    std::snprintf(where, sizeof where, "bits %d tables %d rows %d k %d unsigned %d extreme %d",
                  bits, static_cast<int>(tables), static_cast<int>(rows), static_cast<int>(k),
                  is_unsigned, extreme);
    tallies[i].Check(GemmShiftApplies(m.matrix) && got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestGemmShift() {
  std::vector<Tally> tallies = Tallies(GemmShiftKernels());
  Random random(3);
  for (int bits = 2; bits <= 4; ++bits) {
    for (Tables tables : {Tables::kShift, Tables::kSingle}) {
      for (bool is_unsigned : {false, true}) {
        for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13}) {
          for (int64_t k : {1, 5, 31, 32, 33, 67, 131}) {
            Case(random, bits, tables, rows, k, is_unsigned, tallies);
          }
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
