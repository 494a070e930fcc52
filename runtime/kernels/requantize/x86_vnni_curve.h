// SPDX-License-Identifier: Apache-2.0
// A CodeCurve over registers.
#pragma once

#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/requantize/curve.h"

namespace edgefold {
namespace {

class Curve {
 public:
  explicit Curve(const CodeCurve& c)
      : segments_(_mm512_set1_ps(c.segments)),
        to_integer_(_mm512_set1_ps(kToInteger - c.first)),
        far_(_mm512_set1_ps(c.far)),
        table_(c.table) {}

  // Of several vectors at once: they share what is loaded of the table.
  template <int kVectors>
  inline EF_INLINE void Quotients(const __m512 (&v)[kVectors], __m512 (&y)[kVectors]) const {
    const __m512i zero = _mm512_castps_si512(_mm512_set1_ps(kToInteger));
    const __m512i last = _mm512_add_epi32(zero, _mm512_set1_epi32(CodeCurve::kSegments - 1));
    __m512i segment[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      // Rounded to an integer, a number is in the low bits; bits are in the order of the numbers.
      segment[h] = _mm512_castps_si512(_mm512_fmadd_ps(v[h], segments_, to_integer_));
      segment[h] = _mm512_min_epi32(_mm512_max_epi32(segment[h], zero), last);
    });
    Unroll<4>([&](auto j) EF_INLINE {
      const __m512 low = _mm512_loadu_ps(table_[3 - j]);
      const __m512 high = _mm512_loadu_ps(table_[3 - j] + 16);
      Unroll<kVectors>([&](auto h) EF_INLINE {
        const __m512 c = _mm512_permutex2var_ps(low, segment[h], high);
        y[h] = j == 0 ? c : _mm512_fmadd_ps(y[h], v[h], c);
      });
    });
  }

  // Lanes whose tie with another code is near.
  inline EF_INLINE __mmask16 Near(__m512 quotient) const {
    const __m512 code = _mm512_roundscale_ps(quotient, _MM_FROUND_TO_NEAREST_INT);
    const __m512 distance = _mm512_sub_ps(quotient, code);
    return _mm512_cmp_ps_mask(_mm512_abs_ps(distance), far_, _CMP_GE_OQ);
  }

 private:
  static constexpr float kToInteger = 0x1.8p23f;

  __m512 segments_, to_integer_, far_;
  const float (&table_)[4][CodeCurve::kSegments];
};

}  // namespace
}  // namespace edgefold
