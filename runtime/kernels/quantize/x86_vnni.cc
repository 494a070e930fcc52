// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cmath>

#include "kernels/quantize/quantize.h"

namespace edgefold {
namespace {

constexpr int kHalfEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// Sixteen floats from x, zeros where fewer are left.
inline __m512 Load(const float* x, int64_t left) {
  if (left >= 16) return _mm512_loadu_ps(x);
  return _mm512_maskz_loadu_ps(left <= 0 ? 0 : (1u << left) - 1, x);
}

// 1 / step for powers of two: exponents of a number and its reciprocal add up to twice the bias.
inline __m512 Reciprocal(__m512 step) {
  return _mm512_castsi512_ps(
      _mm512_sub_epi32(_mm512_set1_epi32(254 << 23), _mm512_castps_si512(step)));
}

template <bool kStepped>
float AbsMax(const QuantizeArguments& q, const float* x) {
  __m512 most[2] = {};
  for (int64_t k = 0; k < q.columns; k += 32) {
    for (int i = 0; i < 2; ++i) {
      const int64_t at = k + i * 16;
      __m512 value = _mm512_abs_ps(Load(x + at, q.columns - at));
      if (kStepped) value = _mm512_mul_ps(value, Reciprocal(_mm512_loadu_ps(q.steps + at)));
      most[i] = _mm512_max_ps(value, most[i]);  // its second operand where one is NaN
    }
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
}

// Of a half group: its codes k % 4 < 2, and the others.
inline void StorePairs(__m512i codes, int16_t* pair_sums) {
  pair_sums[0] = static_cast<int16_t>(_mm512_mask_reduce_add_epi32(0x3333, codes));
  pair_sums[1] = static_cast<int16_t>(_mm512_mask_reduce_add_epi32(0xcccc, codes));
}

template <bool kStepped>
void Row(const QuantizeArguments& q, int64_t m, float divisor) {
  const __m512 low = _mm512_set1_ps(static_cast<float>(q.low));
  const __m512 high = _mm512_set1_ps(static_cast<float>(q.high));
  const float* x = q.x + m * q.columns;
  uint8_t* out = q.codes + m * q.stride;
  int16_t* pair_sums = q.pair_sums == nullptr ? nullptr : q.pair_sums + m * (q.stride / 8);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < q.stride; k += 16) {
    const __m512 step = kStepped ? _mm512_loadu_ps(q.steps + k) : _mm512_set1_ps(1.0f);
    const __m512 by = _mm512_mul_ps(_mm512_set1_ps(divisor), step);
    __m512 value = _mm512_div_ps(Load(x + k, q.columns - k), by);
    // Clipping to integers before rounding equals clipping after it; NaN becomes low.
    value = _mm512_min_ps(_mm512_max_ps(value, low), high);
    if (kStepped) value = _mm512_mul_ps(_mm512_roundscale_ps(value, kHalfEven), step);
    const __m512i codes = _mm512_cvtps_epi32(value);
    sums = _mm512_add_epi32(sums, codes);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k), _mm512_cvtepi32_epi8(codes));
    if (pair_sums != nullptr) StorePairs(codes, pair_sums + k / 8);
  }
  q.sums[m] = _mm512_reduce_add_epi32(sums);
}

template <bool kStepped>
void Rows(const QuantizeArguments& q) {
  const float high = static_cast<float>(q.high);
  for (int64_t m = 0; m < q.rows; ++m) {
    float scale = q.static_scale;
    if (scale == 0.0f) {
      const float absmax = AbsMax<kStepped>(q, q.x + m * q.columns);
      scale = absmax > 1e-30f ? absmax / high : 0.0f;
    }
    q.row_scales[m] = scale;
    Row<kStepped>(q, m, scale > 0.0f ? scale : INFINITY);  // codes 0 where there is no scale
  }
}

}  // namespace

void quantize_x86_vnni(const QuantizeArguments& q) {
  if (q.steps == nullptr) return Rows<false>(q);
  Rows<true>(q);
}

}  // namespace edgefold
