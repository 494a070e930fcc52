// SPDX-License-Identifier: Apache-2.0
// CodeEstimates over registers of eight: of 32 or 16 channels of a pixel at a time.
#pragma once

#include <immintrin.h>

#include <cmath>

#include "base/unroll.h"
#include "kernels/activation/formulas.h"
#include "kernels/requantize/margin.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kEight = 8;

// Eight residual codes as floats.
inline EF_INLINE __m256 EightResiduals(const uint8_t* residual, bool is_unsigned) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual));
  return _mm256_cvtepi32_ps(is_unsigned ? _mm256_cvtepu8_epi32(bytes)
                                        : _mm256_cvtepi8_epi32(bytes));
}

// A product with the rounded reciprocal, corrected by its remainder (Markstein, IBM J. Res. Dev.
// 34-1, 1990), rounds to the same integer as the quotient and takes a fraction of its time: true of
// all scales and all values near a tie, as a program has tried.
inline EF_INLINE __m256i RoundQuotient(__m256 value, __m256 scale, __m256 reciprocal) {
  const __m256 quotient = _mm256_mul_ps(value, reciprocal);
  const __m256 remainder = _mm256_fnmadd_ps(quotient, scale, value);
  return _mm256_cvtps_epi32(_mm256_fmadd_ps(remainder, reciprocal, quotient));
}

// Eight codes by the formula, in fixed point: of channels from n on, where a pixel's are.
__attribute__((noinline)) __m256i EightFormulaCodes(const RequantizeArguments& r, int64_t n,
                                                    const int32_t* sums, const uint8_t* residual) {
  const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums));
  const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(r.scales + n));
  __m256 v = _mm256_add_ps(product, _mm256_loadu_ps(r.bias + n));
  if (r.place != Residual::kNone) {
    const __m256 codes = EightResiduals(residual, r.residual_is_unsigned);
    v = _mm256_add_ps(v, _mm256_mul_ps(codes, _mm256_set1_ps(r.residual_scale)));
  }
  using Floats = Formulas<kEight>::Floats;
  WithFunction<kEight>(r.activation, [&](const auto& f) { v = (__m256)f((Floats)v); });
  // max gives the lowest code for NaN.
  const __m256 scale = _mm256_set1_ps(r.y_scale);
  const __m256 low = _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(r.range.low)), scale);
  const __m256 high = _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(r.range.high)), scale);
  v = _mm256_min_ps(_mm256_max_ps(v, low), high);
  return _mm256_slli_epi32(RoundQuotient(v, scale, _mm256_set1_ps(1.0f / r.y_scale)), 16);
}

// Codes by an estimate of the form kLine, kRamp or kQuartics where it is certain, else by the
// formula; of values to which nothing is added after the activation.
template <EstimateForm kForm, bool kAdds, int kVectors>
class EstimatedColumns {
 public:
  inline EF_INLINE EstimatedColumns(const RequantizeArguments& r, int64_t first)
      : r_(r),
        first_(first),
        is_unsigned_(r.range.is_unsigned()),
        lowest_(_mm256_set1_epi8(static_cast<char>(r.estimate->low))),
        highest_(_mm256_set1_epi8(static_cast<char>(r.estimate->high))),
        slope_(_mm256_set1_ps(r.estimate->slope)),
        middle_(_mm256_set1_ps(r.estimate->middle)),
        least_(_mm256_set1_ps(r.estimate->least)),
        most_(_mm256_set1_ps(r.estimate->most)),
        table_(r.estimate->table),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(_mm256_set1_ps(r.residual_scale * r.estimate->factor)) {
    const __m256 factor = _mm256_set1_ps(r.estimate->factor);
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 added = _mm256_set1_ps(kAdds ? 255 * std::abs(r.residual_scale) : 0.0f);
    __m256 most_bias = _mm256_setzero_ps();
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m256 bias = _mm256_loadu_ps(r.bias + first + kEight * h);
      scale_[h] = _mm256_mul_ps(_mm256_loadu_ps(r.scales + first + kEight * h), factor);
      bias_[h] = _mm256_fmadd_ps(bias, factor, _mm256_set1_ps(r.estimate->offset));
      most_bias = _mm256_max_ps(most_bias, _mm256_and_ps(bias, magnitude));
      // A NaN, unless both are finite.
      added = _mm256_fmadd_ps(_mm256_mul_ps(scale_[h], bias_[h]), _mm256_setzero_ps(), added);
    });
    using Floats = Formulas<kEight>::Floats;
    const Margin<kEight> margin(*r.estimate, (Floats)_mm256_add_ps(added, most_bias));
    tie_ = (__m256)margin.tie;
    if constexpr (kForm == EstimateForm::kLine) {
      Unroll<kVectors>([&](auto h) EF_INLINE { bias_[h] = _mm256_add_ps(bias_[h], tie_); });
    }
    near_ = _mm256_cvtps_epi32((__m256)margin.near);
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    __m256 t[kVectors];
    __m256i e[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE { t[h] = Argument<h>(sums, residual); });
    if constexpr (kForm == EstimateForm::kRamp) Ramp(t);
    if constexpr (kForm == EstimateForm::kQuartics) Quartics(t);
    Unroll<kVectors>([&](auto h) EF_INLINE { e[h] = _mm256_cvtps_epi32(t[h]); });
    __m256i least = e[0];  // low halves of all vectors: how far they are above a tie
    Unroll<kVectors>([&](auto h) EF_INLINE { least = _mm256_min_epu16(least, e[h]); });
    if (__builtin_expect(Near(least), 0)) {
      Unroll<kVectors>([&](auto h) EF_INLINE {
        if (!Near(e[h])) return;
        constexpr int kFirst = kEight * h;
        e[h] = EightFormulaCodes(r_, first_ + kFirst, sums + kFirst, residual + kFirst);
      });
    }
    Store(e, y);
  }

 private:
  template <int kVector>
  inline EF_INLINE __m256 Argument(const int32_t* sums, const uint8_t* residual) const {
    constexpr int kFirst = kEight * kVector;
    const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + kFirst));
    const __m256 t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale_[kVector], bias_[kVector]);
    if constexpr (!kAdds) return t;
    const __m256 codes = EightResiduals(residual + kFirst, residual_is_unsigned_);
    return _mm256_fmadd_ps(codes, residual_scale_, t);
  }

  inline EF_INLINE void Ramp(__m256 (&t)[kVectors]) const {
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m256 ramp = _mm256_fmadd_ps(t[h], slope_, middle_);
      const __m256 clipped = _mm256_min_ps(_mm256_max_ps(ramp, least_), most_);
      t[h] = _mm256_fmadd_ps(t[h], clipped, tie_);
    });
  }

  // The vectors share what is loaded of the table.
  inline EF_INLINE void Quartics(__m256 (&t)[kVectors]) const {
    const __m256 reach = _mm256_set1_ps(CodeEstimate::Reach(2 * kEight));
    __m256 y[kVectors];
    __m256i segment[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m256 lowest = _mm256_sub_ps(_mm256_setzero_ps(), reach);
      t[h] = _mm256_min_ps(_mm256_max_ps(t[h], lowest), reach);
      // At the border of two segments either will do.
      segment[h] = _mm256_cvtps_epi32(_mm256_sub_ps(t[h], _mm256_set1_ps(0.5f)));
    });
    Unroll<5>([&](auto j) EF_INLINE {
      const __m256 low = _mm256_load_ps(table_[4 - j]);
      const __m256 high = _mm256_load_ps(table_[4 - j] + kEight);
      Unroll<kVectors>([&](auto h) EF_INLINE {
        // Three bits of the segment choose of eight, the next one between these.
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(segment[h], 28));
        const __m256 c = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, segment[h]),
                                          _mm256_permutevar8x32_ps(high, segment[h]), upper);
        y[h] = j == 0 ? c : _mm256_fmadd_ps(y[h], t[h], c);
      });
    });
    Unroll<kVectors>([&](auto h) EF_INLINE { t[h] = _mm256_add_ps(y[h], tie_); });
  }

  // Whether a low half is at most that of near_.
  inline EF_INLINE bool Near(__m256i e) const {
    const __m256i low = _mm256_or_si256(e, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000)));
    const __m256i above = _mm256_subs_epu16(low, near_);
    const __m256i near = _mm256_cmpeq_epi16(above, _mm256_setzero_si256());
    return !_mm256_testz_si256(near, near);
  }

  // The high halves, packed, in the order of their channels.
  inline EF_INLINE void Store(const __m256i (&e)[kVectors], uint8_t* y) const {
    const __m256i low = _mm256_blend_epi16(_mm256_srli_epi32(e[0], 16), e[1], 0xaa);
    const __m256i high = kVectors == 2 ? low
                                       : _mm256_blend_epi16(_mm256_srli_epi32(e[kVectors - 2], 16),
                                                            e[kVectors - 1], 0xaa);
    __m256i bytes;
    if (is_unsigned_) {
      bytes = _mm256_packus_epi16(low, high);
      bytes = _mm256_min_epu8(_mm256_max_epu8(bytes, lowest_), highest_);
    } else {
      bytes = _mm256_packs_epi16(low, high);
      bytes = _mm256_min_epi8(_mm256_max_epi8(bytes, lowest_), highest_);
    }
    const __m256i by_vector = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(bytes, by_vector), order);
    __builtin_memcpy(y, &bytes, kVectors * kEight);
  }

  const RequantizeArguments& r_;
  int64_t first_;
  bool is_unsigned_;
  __m256i lowest_, highest_;
  __m256 slope_, middle_, least_, most_, tie_;
  const float (&table_)[5][CodeEstimate::kSegments];
  __m256i near_;
  __m256 scale_[kVectors], bias_[kVectors];
  bool residual_is_unsigned_;
  __m256 residual_scale_;
};

}  // namespace
}  // namespace edgefold
