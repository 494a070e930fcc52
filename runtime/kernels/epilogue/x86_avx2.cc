// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/epilogue/epilogue.h"

namespace edgefold {

// Row by row: rows of y often lie a multiple of 4096 bytes apart and then evict one another from
// the first-level cache, so a line is written while it is there.
// The arguments by value: stores of vectors might alias them, and each pass would read them again.
void epilogue_x86_avx2(const EpilogueArguments& arguments) {
  const EpilogueArguments e = arguments;
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 one_bias = _mm256_set1_ps(*e.bias);
  for (int64_t m = 0; m < e.rows; ++m) {
    const __m256 row_scale = _mm256_set1_ps(e.row_scales[m]);
    const int32_t* acc = e.acc + m * e.acc_stride;
    float* y = e.y + m * e.y_stride;
    int64_t n = 0;
    for (; n + 8 <= e.columns; n += 8) {
      const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc + n));
      const __m256 scale = _mm256_mul_ps(row_scale, _mm256_loadu_ps(e.scales + n));
      const __m256 bias = e.bias_is_scalar ? one_bias : _mm256_loadu_ps(e.bias + n);
      const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
      _mm256_storeu_ps(y + n, _mm256_add_ps(product, bias));
    }
    if (n == e.columns) continue;
    const __m256i mask =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(e.columns - n)), lane);
    const __m256 scale = _mm256_mul_ps(row_scale, _mm256_maskload_ps(e.scales + n, mask));
    const __m256 bias = e.bias_is_scalar ? one_bias : _mm256_maskload_ps(e.bias + n, mask);
    const __m256 sums = _mm256_cvtepi32_ps(_mm256_maskload_epi32(acc + n, mask));
    _mm256_maskstore_ps(y + n, mask, _mm256_add_ps(_mm256_mul_ps(sums, scale), bias));
  }
}

}  // namespace edgefold
