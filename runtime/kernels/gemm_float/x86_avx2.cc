// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/gemm_float/gemm_float.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 4;

// k = 4 * unit + kk of eight columns.
template <int kk>
inline __m256 Widen(__m256i unit) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(unit, 24 - 8 * kk), 24));
}

template <int kk, int kRows>
inline void Step(const float* x, int64_t x_stride, const __m256i unit[2], __m256 sums[kRows][2]) {
  const __m256 w[2] = {Widen<kk>(unit[0]), Widen<kk>(unit[1])};
  for (int r = 0; r < kRows; ++r) {
    const __m256 value = _mm256_broadcast_ss(x + r * x_stride + kk);
    for (int h = 0; h < 2; ++h) sums[r][h] = _mm256_fmadd_ps(value, w[h], sums[r][h]);
  }
}

template <int kRows>
void Tile(const float* x, int64_t x_stride, int64_t k, const int8_t* panel, float* y,
          int64_t y_stride) {
  __m256 sums[kRows][2] = {};
  for (int64_t i = 0; i < k; i += 4) {
    const __m256i* bytes = reinterpret_cast<const __m256i*>(panel + i * 16);
    const __m256i unit[2] = {_mm256_loadu_si256(bytes), _mm256_loadu_si256(bytes + 1)};
    const int64_t left = k - i;
    Step<0, kRows>(x + i, x_stride, unit, sums);
    if (left > 1) Step<1, kRows>(x + i, x_stride, unit, sums);
    if (left > 2) Step<2, kRows>(x + i, x_stride, unit, sums);
    if (left > 3) Step<3, kRows>(x + i, x_stride, unit, sums);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < 2; ++h) _mm256_storeu_ps(y + r * y_stride + h * 8, sums[r][h]);
  }
}

using TileFunction = void(const float*, int64_t, int64_t, const int8_t*, float*, int64_t);
constexpr TileFunction* kTiles[kTileRows] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};

}  // namespace

void gemm_float_x86_avx2(const float* x, int64_t x_stride, int64_t rows, int64_t k,
                         const int8_t* panel, float* y, int64_t y_stride) {
  for (int64_t m = 0; m < rows; m += kTileRows) {
    const int64_t count = rows - m < kTileRows ? rows - m : kTileRows;
    kTiles[count - 1](x + m * x_stride, x_stride, k, panel, y + m * y_stride, y_stride);
  }
}

}  // namespace edgefold
