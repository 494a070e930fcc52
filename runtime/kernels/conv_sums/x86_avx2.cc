// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/conv_sums/conv_sums.h"

namespace edgefold {
namespace {

template <bool kPairs>
void Sums(const Activations& a, int32_t* sums, int16_t* pair_sums) {
  const __m256i ones = _mm256_set1_epi8(1);
  const __m128i wide_ones = _mm_set1_epi16(1);
  for (int64_t m = 0; m < a.rows; ++m) {
    __m128i total = _mm_setzero_si128();
    const uint8_t* row = a.Row(m);
    for (int64_t g = 0; g < a.groups; ++g, row += kGroupDepth, pair_sums += kPairs ? 4 : 0) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
      const __m256i pairs = _mm256_maddubs_epi16(ones, codes);  // lanes: first, second, first ...
      const __m256i four = _mm256_add_epi16(pairs, _mm256_srli_si256(pairs, 8));
      const __m256i two = _mm256_add_epi16(four, _mm256_srli_si256(four, 4));
      const __m128i halves =
          _mm_unpacklo_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
      if constexpr (kPairs) _mm_storeu_si64(pair_sums, halves);
      total = _mm_add_epi32(total, _mm_madd_epi16(halves, wide_ones));
    }
    sums[m] = _mm_cvtsi128_si32(_mm_add_epi32(total, _mm_srli_si128(total, 4)));
  }
}

}  // namespace

void conv_sums_x86_avx2(const Activations& a, int32_t* sums, int16_t* pair_sums) {
  pair_sums == nullptr ? Sums<false>(a, sums, pair_sums) : Sums<true>(a, sums, pair_sums);
}

}  // namespace edgefold
