// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "kernels/l1_norm/x86_avx2_rows.h"

namespace edgefold {
namespace {

// The mean absolute deviation, for which the mean has to be known: a pass of its own.
struct Deviation {
  void Add(__m256i /*first*/, __m256i /*second*/) {}
  void Add(int16_t /*level*/) {}

  float Scale(const L1NormArguments& n, int64_t whole, int32_t /*sum*/, int32_t mean,
              float factor) const {
    const __m256i centre = _mm256_set1_epi16(static_cast<int16_t>(mean));
    __m256i sums = _mm256_setzero_si256();
    for (int64_t i = 0; i < whole; i += kStep) {
      AddPairs(_mm256_abs_epi16(_mm256_sub_epi16(LoadLevels(n.scratch + i), centre)), &sums);
    }
    int32_t sum = Total(sums);
    for (int64_t i = whole; i < n.columns; ++i) sum += std::abs(n.scratch[i] - mean);
    return edgefold::Scale(n, sum, factor);
  }
};

}  // namespace

void l1_norm_x86_avx2(const L1NormArguments& n) { NormalizeRows<Deviation>(n); }

}  // namespace edgefold
