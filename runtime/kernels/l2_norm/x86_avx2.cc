// SPDX-License-Identifier: Apache-2.0
#include "kernels/l1_norm/x86_avx2_rows.h"
#include "kernels/l2_norm/l2_norm.h"

namespace edgefold {
namespace {

class Variance {
 public:
  void Add(__m256i first, __m256i second) {
    // Four squares a lane, of levels up to 2^14: 2^30 at most.
    const __m256i four =
        _mm256_add_epi32(_mm256_madd_epi16(first, first), _mm256_madd_epi16(second, second));
    const __m256i low = _mm256_and_si256(four, _mm256_set1_epi64x(0xffffffff));
    const __m256i both = _mm256_add_epi64(low, _mm256_srli_epi64(four, 32));
    sums_ = _mm256_add_epi64(sums_, both);
  }
  void Add(int16_t level) { rest_ += level * level; }

  float Scale(const L1NormArguments& n, int64_t /*whole*/, int32_t sum, int32_t mean,
              float factor) const {
    const __m128i two =
        _mm_add_epi64(_mm256_castsi256_si128(sums_), _mm256_extracti128_si256(sums_, 1));
    const int64_t squares = _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_srli_si128(two, 8))) + rest_;
    return L2NormScale(n, L2NormSquares(n, sum, squares, mean), factor);
  }

 private:
  __m256i sums_ = _mm256_setzero_si256();
  int64_t rest_ = 0;
};

}  // namespace

void l2_norm_x86_avx2(const L1NormArguments& n) { NormalizeRows<Variance>(n); }

}  // namespace edgefold
