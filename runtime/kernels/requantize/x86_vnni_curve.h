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
      : low_(_mm512_set1_ps(c.low)),
        high_(_mm512_set1_ps(c.high)),
        segments_(_mm512_set1_ps(c.segments)),
        to_integer_(_mm512_set1_ps(0x1.8p23f - c.first)),
        far_(_mm512_set1_ps(c.far * c.far)),
        table_(c.table) {}

  // Of several vectors at once: they share what is loaded of the table.
  template <int kVectors>
  inline EF_INLINE void Quotients(const __m512 (&v)[kVectors], __m512 (&y)[kVectors]) const {
    __m512 x[kVectors];
    __m512i segment[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      x[h] = _mm512_min_ps(high_, _mm512_max_ps(low_, v[h]));
      // Rounded to an integer, the segment's number is in the low bits.
      segment[h] = _mm512_castps_si512(_mm512_fmadd_ps(x[h], segments_, to_integer_));
    });
    Unroll<4>([&](auto j) EF_INLINE {
      const __m512 low = _mm512_loadu_ps(table_[3 - j]);
      const __m512 high = _mm512_loadu_ps(table_[3 - j] + 16);
      Unroll<kVectors>([&](auto h) EF_INLINE {
        const __m512 c = _mm512_permutex2var_ps(low, segment[h], high);
        y[h] = j == 0 ? c : _mm512_fmadd_ps(y[h], x[h], c);
      });
    });
  }

  // Lanes whose tie with another code is near.
  inline EF_INLINE __mmask16 Near(__m512 quotient) const {
    const __m512 code = _mm512_roundscale_ps(quotient, _MM_FROUND_TO_NEAREST_INT);
    const __m512 distance = _mm512_sub_ps(quotient, code);
    return _mm512_cmp_ps_mask(_mm512_mul_ps(distance, distance), far_, _CMP_GE_OQ);
  }

 private:
  __m512 low_, high_, segments_, to_integer_, far_;
  const float (&table_)[4][CodeCurve::kSegments];
};

}  // namespace
}  // namespace edgefold
