// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/conv_epilogue/conv_epilogue.h"

namespace edgefold {
namespace {

// rows[i] lane j -> rows[j] lane i
void Transpose(__m256 rows[8]) {
  __m256 pairs[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m256 fours[8];
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0x44);
      fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0xEE);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

__m256 Scaled(const int32_t* acc, __m256 scale, __m256 bias) {
  const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc));
  return _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale), bias);
}

// Scales and biases of `lanes` channels from n on.
void LoadChannels(const ConvEpilogueArguments& e, int64_t n, int64_t lanes, __m256* scale,
                  __m256* bias) {
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  *scale = _mm256_mul_ps(_mm256_set1_ps(e.x_scale), _mm256_maskload_ps(e.scales + n, mask));
  *bias = e.bias_is_scalar ? _mm256_set1_ps(e.bias[0]) : _mm256_maskload_ps(e.bias + n, mask);
}

}  // namespace

void conv_epilogue_x86_avx2(const ConvEpilogueArguments& e) {
  for (int64_t n = 0; n < e.channels; n += 8) {
    const int64_t lanes = e.channels - n < 8 ? e.channels - n : 8;
    __m256 scale;
    __m256 bias;
    LoadChannels(e, n, lanes, &scale, &bias);
    const int32_t* acc = e.acc + n;
    float* y = e.y + n * e.channel_stride;
    int64_t i = 0;
    for (; i + 8 <= e.pixels; i += 8) {
      __m256 rows[8];
      for (int j = 0; j < 8; ++j) rows[j] = Scaled(acc + (i + j) * e.acc_stride, scale, bias);
      Transpose(rows);
      if (lanes == 8) {
        for (int j = 0; j < 8; ++j) _mm256_storeu_ps(y + j * e.channel_stride + i, rows[j]);
      } else {
        for (int j = 0; j < lanes; ++j) _mm256_storeu_ps(y + j * e.channel_stride + i, rows[j]);
      }
    }
    for (; i < e.pixels; ++i) {
      alignas(32) float row[8];
      _mm256_store_ps(row, Scaled(acc + i * e.acc_stride, scale, bias));
      for (int64_t j = 0; j < lanes; ++j) y[j * e.channel_stride + i] = row[j];
    }
  }
}

}  // namespace edgefold
