// SPDX-License-Identifier: Apache-2.0
// CodeEstimates over registers: e + 2^16 * tie of several vectors of t at once. What does not fit
// 32 bits, and a NaN, becomes the least integer.
#pragma once

#include <immintrin.h>

#include "kernels/requantize/margin.h"
#include "kernels/requantize/x86_vnni_columns.h"

namespace edgefold {
namespace {

class LineEstimate {
 public:
  explicit LineEstimate(const CodeEstimate&) {}

  // Takes the tie, in fixed point; returns what t has to hold of it.
  inline EF_INLINE __m512 TakeTie(__m512 tie) { return tie; }

  template <int kVectors>
  inline EF_INLINE void Fixed(const __m512 (&t)[kVectors], __m512i (&e)[kVectors]) const {
    Unroll<kVectors>([&](auto h) EF_INLINE { e[h] = _mm512_cvtps_epi32(t[h]); });
  }
};

class RampEstimate {
 public:
  explicit RampEstimate(const CodeEstimate& e)
      : slope_(_mm512_set1_ps(e.slope)),
        middle_(_mm512_set1_ps(e.middle)),
        least_(_mm512_set1_ps(e.least)),
        most_(_mm512_set1_ps(e.most)) {}

  inline EF_INLINE __m512 TakeTie(__m512 tie) {
    tie_ = tie;
    return _mm512_setzero_ps();
  }

  template <int kVectors>
  inline EF_INLINE void Fixed(const __m512 (&t)[kVectors], __m512i (&e)[kVectors]) const {
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m512 ramp = _mm512_fmadd_ps(t[h], slope_, middle_);
      const __m512 clipped = _mm512_min_ps(_mm512_max_ps(ramp, least_), most_);
      e[h] = _mm512_cvtps_epi32(_mm512_fmadd_ps(t[h], clipped, tie_));
    });
  }

 private:
  __m512 slope_, middle_, least_, most_, tie_;
};

class CubicsEstimate {
 public:
  explicit CubicsEstimate(const CodeEstimate& e) : table_(e.table) {}

  inline EF_INLINE __m512 TakeTie(__m512 tie) {
    tie_ = _mm512_cvtps_epi32(tie);
    return _mm512_setzero_ps();
  }

  // The vectors share what is loaded of the table.
  template <int kVectors>
  inline EF_INLINE void Fixed(const __m512 (&t)[kVectors], __m512i (&e)[kVectors]) const {
    constexpr int kLeastMagnitude = 2, kFloor = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    const __m512 reach = _mm512_set1_ps(CodeEstimate::Reach(CodeEstimate::kSegments));
    __m512 clipped[kVectors], y[kVectors];
    __m512i segment[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      // The sign of t comes along.
      clipped[h] = _mm512_range_ps(t[h], reach, kLeastMagnitude);
      segment[h] = _mm512_cvt_roundps_epi32(clipped[h], kFloor);
    });
    Unroll<4>([&](auto j) EF_INLINE {
      const __m512 low = _mm512_load_ps(table_[3 - j]);
      const __m512 high = _mm512_load_ps(table_[3 - j] + 16);
      Unroll<kVectors>([&](auto h) EF_INLINE {
        // Of an index only the last five bits count.
        const __m512 c = _mm512_permutex2var_ps(low, segment[h], high);
        y[h] = j == 0 ? c : _mm512_fmadd_ps(y[h], clipped[h], c);
      });
    });
    Unroll<kVectors>([&](auto h)
                         EF_INLINE { e[h] = _mm512_add_epi32(_mm512_cvtps_epi32(y[h]), tie_); });
  }

 private:
  const float (&table_)[5][CodeEstimate::kSegments];
  __m512i tie_;
};

// Sixteen codes by the formula, in fixed point: of channels from n on, where a pixel's are.
__attribute__((noinline)) __m512i FormulaCodes(const RequantizeArguments& r, int64_t n,
                                               const int32_t* sums, const uint8_t* residual) {
  const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums));
  const __m512 product = _mm512_mul_ps(sum, _mm512_loadu_ps(r.scales + n));
  __m512 v = _mm512_add_ps(product, _mm512_loadu_ps(r.bias + n));
  if (r.place != Residual::kNone) {
    const int64_t count = std::min<int64_t>(r.channels - n, kLanes);
    const __mmask16 mask = static_cast<__mmask16>((1 << count) - 1);
    const __m512 codes = ResidualCodes(residual, mask, r.residual_is_unsigned);
    v = _mm512_add_ps(v, _mm512_mul_ps(codes, _mm512_set1_ps(r.residual_scale)));
  }
  WithFunction<kLanes>(r.activation, [&](const auto& f) { v = (__m512)f((Floats)v); });
  const __m512 most = _mm512_set1_ps(static_cast<float>(r.range.high) * r.y_scale);
  const __m512i code = Divider(r.y_scale).Round(_mm512_min_ps(most, v));
  return _mm512_slli_epi32(_mm512_max_epi32(code, _mm512_set1_epi32(-256)), 16);
}

// Codes by an estimate where it is certain, else by the formula; of values to which nothing is
// added after the activation.
template <typename Estimate, bool kAdds, int kVectors>
class EstimatedColumns {
 public:
  inline EF_INLINE EstimatedColumns(const RequantizeArguments& r, int64_t first)
      : r_(r),
        first_(first),
        estimate_(*r.estimate),
        store_(r, first, r.estimate->low, r.estimate->high),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(_mm512_set1_ps(r.residual_scale * r.estimate->factor)) {
    const __m512 factor = _mm512_set1_ps(r.estimate->factor);
    const __m512 offset = _mm512_set1_ps(r.estimate->offset);
    __m512 added = _mm512_set1_ps(kAdds ? 255 * std::abs(r.residual_scale) : 0.0f);
    __m512 most_bias = _mm512_setzero_ps();
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m512 bias = _mm512_loadu_ps(r.bias + first + kLanes * h);
      scale_[h] = _mm512_mul_ps(_mm512_loadu_ps(r.scales + first + kLanes * h), factor);
      bias_[h] = _mm512_fmadd_ps(bias, factor, offset);
      most_bias = _mm512_max_ps(most_bias, _mm512_abs_ps(bias));
      // A NaN, unless both are finite.
      added = _mm512_fmadd_ps(_mm512_mul_ps(scale_[h], bias_[h]), _mm512_setzero_ps(), added);
    });
    const Margin<kLanes> margin(*r.estimate, (Floats)_mm512_add_ps(added, most_bias));
    const __m512 in_t = estimate_.TakeTie((__m512)margin.tie);
    Unroll<kVectors>([&](auto h) EF_INLINE { bias_[h] = _mm512_add_ps(bias_[h], in_t); });
    near_ = _mm512_cvtps_epi32((__m512)margin.near);
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    __m512 t[kVectors];
    __m512i e[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums + kLanes * h));
      t[h] = _mm512_fmadd_ps(sum, scale_[h], bias_[h]);
      if constexpr (kAdds) {
        const __m512 codes =
            ResidualCodes(residual + kLanes * h, store_.template Mask<h>(), residual_is_unsigned_);
        t[h] = _mm512_fmadd_ps(codes, residual_scale_, t[h]);
      }
    });
    estimate_.Fixed(t, e);
    __m512i least = e[0];  // low halves of all vectors: how far they are above a tie
    Unroll<kVectors>([&](auto h) EF_INLINE { least = _mm512_min_epu16(least, e[h]); });
    if (__builtin_expect(Near(least), 0)) {
      Unroll<kVectors>([&](auto h) EF_INLINE {
        if (!Near(e[h])) return;
        constexpr int kFirst = kLanes * h;
        e[h] = FormulaCodes(r_, first_ + kFirst, sums + kFirst, residual + kFirst);
      });
    }
    store_.HighWords(e, y);
  }

 private:
  inline EF_INLINE bool Near(__m512i e) const {
    constexpr __mmask32 kLowHalves = 0x55555555;
    return _mm512_mask_cmple_epu16_mask(kLowHalves, e, near_) != 0;
  }

  const RequantizeArguments& r_;
  int64_t first_;
  Estimate estimate_;
  CodeStore<kVectors> store_;
  __m512i near_;
  __m512 scale_[kVectors], bias_[kVectors];
  bool residual_is_unsigned_;
  __m512 residual_scale_;
};

}  // namespace
}  // namespace edgefold
