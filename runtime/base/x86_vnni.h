// SPDX-License-Identifier: Apache-2.0
// Small AVX-512 pieces that several kernels need. Only files compiled for it include this.
#pragma once

#include <immintrin.h>

namespace edgefold {
namespace {

// A quotient that rounds to the same integer as value / scale: a product with the reciprocal in two
// parts, which hold 48 bits of it. A program has tried all scales, for every tie between two codes,
// with the values beside it; true of scales from 2^-64 to 2^64.
class Divider {
 public:
  explicit Divider(float scale) {
    const __m512 divisor = _mm512_set1_ps(scale);
    high_ = _mm512_set1_ps(1.0f / scale);
    low_ = _mm512_div_ps(_mm512_fnmadd_ps(high_, divisor, _mm512_set1_ps(1.0f)), divisor);
  }
  Divider(float high, float low) : high_(_mm512_set1_ps(high)), low_(_mm512_set1_ps(low)) {}

  // Which of some scales it is true of.
  static __mmask16 InRange(__m512 scales, __mmask16 some) {
    const __mmask16 large =
        _mm512_mask_cmp_ps_mask(some, scales, _mm512_set1_ps(0x1p-64f), _CMP_GE_OQ);
    return _mm512_mask_cmp_ps_mask(large, scales, _mm512_set1_ps(0x1p64f), _CMP_LE_OQ);
  }

  // What does not fit 32 bits, and a NaN, becomes the least integer.
  inline __attribute__((always_inline)) __m512i Round(__m512 value) const {
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(value, high_, _mm512_mul_ps(value, low_)));
  }

 private:
  __m512 high_, low_;
};

// Those of sixteen scales, whose divisions are done at once.
class SixteenDividers {
 public:
  explicit SixteenDividers(__m512 scales) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 high = _mm512_div_ps(one, scales);
    _mm512_storeu_ps(high_, high);
    _mm512_storeu_ps(low_, _mm512_div_ps(_mm512_fnmadd_ps(high, scales, one), scales));
  }

  Divider operator[](int i) const { return Divider(high_[i], low_[i]); }

 private:
  float high_[16], low_[16];
};

}  // namespace
}  // namespace edgefold
