// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/scratch.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int bits, Tables tables, int64_t rows, int64_t k, bool is_unsigned,
          std::vector<Tally>& tallies) {
  const KernelTable<GemmShiftKernel> kernels = GemmShiftKernels();
  RandomMatrix m(random, bits, k, random.Range(1, 40), tables);
  const bool extreme = random.Next() % 2 == 0;
  if (extreme) {  // the largest levels, so that sums reach their bounds
    std::fill(m.codes.begin(), m.codes.end(), random.Next() % 2 == 0 ? 0x00 : 0xff);
  }
  const RandomRows a(random, rows, k, is_unsigned, extreme);
  const int panels = static_cast<int>(m.matrix.Panels());
  const int64_t panel = random.Range(0, panels - 1);
  const int64_t count = random.Range(1, panels - static_cast<int>(panel));
  const int64_t stride = count * kPanelColumns + random.Range(0, 3);
  ArrangedRows arranged = GemmShiftRows(m.matrix, rows, is_unsigned);
  const Scratch blocks = AllocateScratch(arranged.Bytes());
  arranged.blocks = blocks.get();
  arrange_reference(a.activations, 0, arranged);
  Guarded<int32_t> expected(rows * stride);
  gemm_shift_reference(m.matrix, panel, count, arranged, nullptr, expected.data(), stride);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    const int64_t bytes = GemmShiftScratch(arranged);
    const Scratch scratch = AllocateScratch(bytes);
    std::memset(scratch.get(), 0xa5, bytes);
    Guarded<int32_t> got(rows * stride);
    kernels.rows[i].run(m.matrix, panel, count, arranged, scratch.get(), got.data(), stride);
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
    for (Tables tables : {Tables::kShift, Tables::kSingle, Tables::kShapes16, Tables::kShapes32}) {
      for (bool is_unsigned : {false, true}) {
        for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13}) {
          for (int64_t k : {1, 5, 31, 32, 33, 67, 131, 800}) {
            Case(random, bits, tables, rows, k, is_unsigned, tallies);
          }
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
