// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/epilogue/epilogue.h"

namespace edgefold {

void epilogue_x86_avx2(const EpilogueArguments& e) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int64_t n = 0; n < e.columns; n += 8) {
    const int32_t left = e.columns - n < 8 ? static_cast<int32_t>(e.columns - n) : 8;
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane);
    const __m256 scales = _mm256_maskload_ps(e.scales + n, mask);
    const __m256 bias =
        e.bias_is_scalar ? _mm256_set1_ps(*e.bias) : _mm256_maskload_ps(e.bias + n, mask);
    for (int64_t m = 0; m < e.rows; ++m) {
      const __m256i acc = _mm256_maskload_epi32(e.acc + m * e.acc_stride + n, mask);
      const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(e.row_scales[m]), scales);
      const __m256 y = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale), bias);
      float* out = e.y + m * e.y_stride + n;
      if (left == 8) {
        _mm256_storeu_ps(out, y);
      } else {
        _mm256_maskstore_ps(out, mask, y);
      }
    }
  }
}

}  // namespace edgefold
