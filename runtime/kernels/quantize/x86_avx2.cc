// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cmath>

#include "kernels/quantize/quantize.h"

namespace edgefold {
namespace {

constexpr int kHalfEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// All ones in the lanes below `left`.
inline __m256i Present(int64_t left) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int32_t count = left <= 0 ? 0 : left >= 8 ? 8 : static_cast<int32_t>(left);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}

// Eight floats from x, zeros where fewer are left.
inline __m256 Load(const float* x, int64_t left) {
  return left >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, Present(left));
}

// 1 / step for powers of two: exponents of a number and its reciprocal add up to twice the bias.
inline __m256 Reciprocal(__m256 step) {
  return _mm256_castsi256_ps(
      _mm256_sub_epi32(_mm256_set1_epi32(254 << 23), _mm256_castps_si256(step)));
}

template <bool kStepped>
float AbsMax(const QuantizeArguments& q, const float* x) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 most[4] = {};
  for (int64_t k = 0; k < q.columns; k += 32) {
    for (int i = 0; i < 4; ++i) {
      const int64_t at = k + i * 8;
      __m256 value = _mm256_and_ps(Load(x + at, q.columns - at), magnitude);
      if (kStepped) value = _mm256_mul_ps(value, Reciprocal(_mm256_loadu_ps(q.steps + at)));
      // max returns its second operand where one is NaN.
      most[i] = _mm256_max_ps(value, most[i]);
    }
  }
  const __m256 eight =
      _mm256_max_ps(_mm256_max_ps(most[0], most[1]), _mm256_max_ps(most[2], most[3]));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

template <bool kStepped>
struct Codes {
  __m256 divisor, low, high;
  const float* steps;

  // The operand of each x, the first of channel k, as int32: clipping to integers before rounding
  // equals clipping after it.
  __m256i Of(__m256 x, int64_t k) const {
    const __m256 step = kStepped ? _mm256_loadu_ps(steps + k) : _mm256_set1_ps(1.0f);
    const __m256 by = kStepped ? _mm256_mul_ps(divisor, step) : divisor;
    __m256 value = _mm256_max_ps(_mm256_div_ps(x, by), low);  // NaN becomes low
    value = _mm256_min_ps(value, high);
    if (kStepped) value = _mm256_mul_ps(_mm256_round_ps(value, kHalfEven), step);
    return _mm256_cvtps_epi32(value);
  }

  // The 32 operands from channel k on, in order; `left` channels are left.
  __m256i Group(const float* x, int64_t k, int64_t left, bool is_signed) const {
    __m256i part[4];
    for (int i = 0; i < 4; ++i) {
      part[i] = Of(Load(x + k + i * 8, left - i * 8), k + i * 8);
      if (left < i * 8 + 8) part[i] = _mm256_and_si256(part[i], Present(left - i * 8));
    }
    const __m256i first = _mm256_packs_epi32(part[0], part[1]);
    const __m256i second = _mm256_packs_epi32(part[2], part[3]);
    const __m256i bytes =
        is_signed ? _mm256_packs_epi16(first, second) : _mm256_packus_epi16(first, second);
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
};

// Sums of the 16-bit lanes of equal parity in each half: (even, odd) of the low, of the high one.
inline __m128i Parity(__m256i lanes) {
  const __m256i four = _mm256_add_epi16(lanes, _mm256_srli_si256(lanes, 8));
  const __m256i two = _mm256_add_epi16(four, _mm256_srli_si256(four, 4));
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

template <bool kStepped>
void Row(const QuantizeArguments& q, int64_t m, float divisor) {
  const bool is_signed = q.low < 0;
  const Codes<kStepped> codes = {_mm256_set1_ps(divisor), _mm256_set1_ps(static_cast<float>(q.low)),
                                 _mm256_set1_ps(static_cast<float>(q.high)), q.steps};
  const float* x = q.x + m * q.x_stride;
  uint8_t* out = q.codes + m * q.stride;
  const int64_t groups = q.stride / 32;
  const __m256i ones = _mm256_set1_epi8(1);
  const __m128i wide_ones = _mm_set1_epi16(1);
  __m128i sums = _mm_setzero_si128();
  for (int64_t g = 0; g < groups; ++g) {
    const __m256i bytes = codes.Group(x, g * 32, q.columns - g * 32, is_signed);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + g * 32), bytes);
    // Sums of two neighbours: at most 510, sixteen of them 4080.
    const __m256i pairs =
        is_signed ? _mm256_maddubs_epi16(ones, bytes) : _mm256_maddubs_epi16(bytes, ones);
    const __m128i halves = Parity(pairs);
    sums = _mm_add_epi32(sums, _mm_madd_epi16(halves, wide_ones));
    if (q.pair_sums != nullptr) _mm_storeu_si64(q.pair_sums + (m * groups + g) * 4, halves);
  }
  q.sums[m] = _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_srli_si128(sums, 4)));
}

template <bool kStepped>
void Rows(const QuantizeArguments& q) {
  const float high = static_cast<float>(q.high);
  for (int64_t m = 0; m < q.rows; ++m) {
    float scale = q.static_scale;
    if (scale == 0.0f) {
      const float absmax = AbsMax<kStepped>(q, q.x + m * q.x_stride);
      scale = absmax > 1e-30f ? absmax / high : 0.0f;
    }
    q.row_scales[m] = scale;
    Row<kStepped>(q, m, scale > 0.0f ? scale : INFINITY);  // codes 0 where there is no scale
  }
}

}  // namespace

void quantize_x86_avx2(const QuantizeArguments& q) {
  if (q.steps == nullptr) return Rows<false>(q);
  Rows<true>(q);
}

}  // namespace edgefold
