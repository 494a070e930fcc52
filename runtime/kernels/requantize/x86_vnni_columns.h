// SPDX-License-Identifier: Apache-2.0
// Up to 64 channels of a pixel at a time: four registers of sums, one store of codes. Bounds of the
// codes are left to the last steps, where 64 of them fill a register.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/unroll.h"
#include "base/x86_vnni.h"
#include "kernels/activation/formulas.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;
constexpr int kMostVectors = 4;

using Floats = Formulas<kLanes>::Floats;

// max gives `low` for NaN.
inline EF_INLINE __m512 Clip(__m512 value, __m512 low, __m512 high) {
  return _mm512_min_ps(_mm512_max_ps(value, low), high);
}

inline float Clip(float value, float low, float high) {
  return std::min(std::max(value, low), high);
}

// Where codes go: kVectors registers of channels from `first` on, but for those that are not there.
template <int kVectors>
class CodeStore {
 public:
  // Codes are clipped to [low, high].
  inline EF_INLINE CodeStore(const RequantizeArguments& r, int64_t first, int32_t low, int32_t high)
      : is_unsigned_(r.range.is_unsigned()),
        lowest_(_mm512_set1_epi8(static_cast<char>(low))),
        highest_(_mm512_set1_epi8(static_cast<char>(high))) {
    const int64_t count = std::min<int64_t>(r.channels - first, kVectors * kLanes);
    whole_ = count == kVectors * kLanes;
    bytes_ = count == 64 ? ~0ull : (1ull << count) - 1;
  }

  template <int kVector>
  inline EF_INLINE __mmask16 Mask() const {
    return static_cast<__mmask16>(bytes_ >> kVector * kLanes);
  }

  // Of 32 bits each.
  inline EF_INLINE void Dwords(const __m512i (&codes)[kVectors], uint8_t* y) const {
    __m512i all[kMostVectors];
    Unroll<kMostVectors>([&](auto h) EF_INLINE { all[h] = codes[h < kVectors ? h : 0]; });
    const __m512i low = _mm512_packs_epi32(all[0], all[1]);
    const __m512i high = kVectors > 2 ? _mm512_packs_epi32(all[2], all[3]) : low;
    // Dwords of four registers, packed lane by lane, in the order of their channels.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    Bytes(_mm512_permutexvar_epi32(order, Packed(low, high)), y);
  }

  // Of 16 bits behind 16 others.
  inline EF_INLINE void HighWords(const __m512i (&codes)[kVectors], uint8_t* y) const {
    const __m512i odd =
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    __m512i all[kMostVectors];
    Unroll<kMostVectors>([&](auto h) EF_INLINE { all[h] = codes[h < kVectors ? h : 0]; });
    const __m512i low = _mm512_permutex2var_epi16(all[0], odd, all[1]);
    const __m512i high = kVectors > 2 ? _mm512_permutex2var_epi16(all[2], odd, all[3]) : low;
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    Bytes(_mm512_permutexvar_epi64(order, Packed(low, high)), y);
  }

 private:
  inline EF_INLINE __m512i Packed(__m512i low, __m512i high) const {
    if (is_unsigned_) {
      const __m512i bytes = _mm512_packus_epi16(low, high);
      return _mm512_min_epu8(_mm512_max_epu8(bytes, lowest_), highest_);
    }
    const __m512i bytes = _mm512_packs_epi16(low, high);
    return _mm512_min_epi8(_mm512_max_epi8(bytes, lowest_), highest_);
  }

  inline EF_INLINE void Bytes(__m512i bytes, uint8_t* y) const {
    if (whole_) {
      __builtin_memcpy(y, &bytes, kVectors * kLanes);
    } else if constexpr (kVectors == 1) {
      _mm_mask_storeu_epi8(y, Mask<0>(), _mm512_castsi512_si128(bytes));
    } else if constexpr (kVectors == 2) {
      const __mmask32 mask = static_cast<__mmask32>(bytes_);
      _mm256_mask_storeu_epi8(y, mask, _mm512_castsi512_si256(bytes));
    } else {
      _mm512_mask_storeu_epi8(y, bytes_, bytes);
    }
  }

  bool is_unsigned_;
  bool whole_;       // whether all channels are there
  __mmask64 bytes_;  // of those that are
  __m512i lowest_, highest_;
};

// Sixteen residual codes as floats.
inline EF_INLINE __m512 ResidualCodes(const uint8_t* residual, __mmask16 mask, bool is_unsigned) {
  const __m128i bytes = _mm_maskz_loadu_epi8(mask, residual);
  return _mm512_cvtepi32_ps(is_unsigned ? _mm512_cvtepu8_epi32(bytes)
                                        : _mm512_cvtepi8_epi32(bytes));
}

// kFloats, or codes: kBoundedCodes of values that are so many codes that they fit 32 bits.
enum class Results { kFloats, kCodes, kBoundedCodes };

// Results by the formula.
template <Results kResults, int kVectors, typename Function>
class Columns {
 public:
  inline EF_INLINE Columns(const RequantizeArguments& r, int64_t first, float clip_low,
                           float clip_high, const Function& activation)
      : activation_(activation),
        divider_(r.y_scale),
        store_(r, first, CodeOf(r, clip_low), CodeOf(r, clip_high)),
        place_(r.place),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(_mm512_set1_ps(r.residual_scale)),
        low_(_mm512_set1_ps(clip_low)) {
    if constexpr (kResults != Results::kFloats) {
      clip_high = std::min(clip_high, static_cast<float>(r.range.high) * r.y_scale);
    }
    high_ = _mm512_set1_ps(clip_high);
    Unroll<kVectors>([&](auto h) EF_INLINE {
      scale_[h] = _mm512_loadu_ps(r.scales + first + kLanes * h);
      bias_[h] = _mm512_loadu_ps(r.bias + first + kLanes * h);
    });
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    __m512 v[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE { v[h] = Value<h>(sums, residual); });
    if constexpr (kResults != Results::kFloats) {
      __m512i codes[kVectors];
      Unroll<kVectors>([&](auto h) EF_INLINE { codes[h] = Code(v[h]); });
      store_.Dwords(codes, y);
    } else {
      Unroll<kVectors>([&](auto h) EF_INLINE {
        const __mmask16 mask = store_.template Mask<h>();
        _mm512_mask_storeu_ps(y + 4 * kLanes * h, mask, Clip(v[h], low_, high_));
      });
    }
  }

 private:
  template <int kVector>
  inline EF_INLINE __m512 Add(__m512 value, const uint8_t* residual) const {
    const __m512 codes = ResidualCodes(residual + kLanes * kVector, store_.template Mask<kVector>(),
                                       residual_is_unsigned_);
    return _mm512_add_ps(value, _mm512_mul_ps(codes, residual_scale_));
  }

  // What does not fit 32 bits is converted to the least integer: that suits what is too low, and a
  // NaN, which stays one in the smaller of it and a number.
  inline EF_INLINE __m512i Code(__m512 v) const {
    if constexpr (kResults != Results::kBoundedCodes) v = _mm512_min_ps(high_, v);
    return divider_.Round(v);
  }

  template <int kVector>
  inline EF_INLINE __m512 Value(const int32_t* sums, const uint8_t* residual) const {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums + kLanes * kVector));
    __m512 v = _mm512_add_ps(_mm512_mul_ps(sum, scale_[kVector]), bias_[kVector]);
    if (place_ == Residual::kBeforeActivation) v = Add<kVector>(v, residual);
    v = (__m512)activation_((Floats)v);
    return place_ == Residual::kAfterActivation ? Add<kVector>(v, residual) : v;
  }

  // Of a bound: of what rounds to the lowest or the highest code, beyond these.
  int32_t CodeOf(const RequantizeArguments& r, float value) const {
    const float lowest = static_cast<float>(r.range.low) * r.y_scale;
    const float highest = static_cast<float>(r.range.high) * r.y_scale;
    const __m512 bounded = _mm512_set1_ps(Clip(value, lowest, highest));
    return _mm512_cvtsi512_si32(divider_.Round(bounded));
  }

  Function activation_;
  Divider divider_;
  CodeStore<kVectors> store_;
  __m512 scale_[kVectors], bias_[kVectors];
  Residual place_;
  bool residual_is_unsigned_;
  __m512 residual_scale_;
  __m512 low_, high_;
};

}  // namespace
}  // namespace edgefold
