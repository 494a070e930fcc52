// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstring>
#include <limits>

#include "base/unroll.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: two registers, one store of codes

// max gives `low` for NaN.
inline EF_INLINE __m256 Clip(__m256 value, __m256 low, __m256 high) {
  return _mm256_min_ps(_mm256_max_ps(value, low), high);
}

// The low bytes of sixteen lanes of [-127, 255].
inline EF_INLINE __m128i Pack(__m256i first, __m256i second) {
  const __m256i low_bytes =
      _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1, 0, 2, 4, 6, 8, 10,
                       12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_packs_epi32(first, second), low_bytes);
  // Four of `first` and four of `second` in either half.
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}

// Values to codes: clipped first, to where the quotients of the lowest and highest code lie.
class Quantizer {
 public:
  // Values are known to be clipped to clip_low ... clip_high.
  inline EF_INLINE Quantizer(const RequantizeArguments& r, float clip_low, float clip_high)
      : scale_(_mm256_set1_ps(r.y_scale)), reciprocal_(_mm256_set1_ps(1.0f / r.y_scale)) {
    const __m256 low = _mm256_set1_ps(static_cast<float>(r.range.low) * r.y_scale);
    const __m256 high = _mm256_set1_ps(static_cast<float>(r.range.high) * r.y_scale);
    low_ = Clip(_mm256_set1_ps(clip_low), low, high);
    high_ = Clip(_mm256_set1_ps(clip_high), low, high);
  }

  // A product with the rounded reciprocal, corrected by its remainder (Markstein, IBM J. Res. Dev.
  // 34-1, 1990), rounds to the same integer as the quotient and takes a fraction of its time: true
  // of all y_scale and all values near a tie, as a program has tried.
  inline EF_INLINE __m256i Codes(__m256 value) const {
    value = Clip(value, low_, high_);
    const __m256 quotient = _mm256_mul_ps(value, reciprocal_);
    const __m256 remainder = _mm256_fnmadd_ps(quotient, scale_, value);
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(remainder, reciprocal_, quotient));
  }

 private:
  __m256 scale_, reciprocal_, low_, high_;
};

template <bool kSums, bool kCodes, Residual kPlace>
class Columns {
 public:
  // Channels n .. n + 15.
  inline EF_INLINE Columns(const RequantizeArguments& r, int64_t n)
      : quantizer_(r, kClips ? -kInfinity : r.clip_low, kClips ? kInfinity : r.clip_high),
        clip_low_(_mm256_set1_ps(r.clip_low)),
        clip_high_(_mm256_set1_ps(r.clip_high)),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(_mm256_set1_ps(r.residual_scale)) {
    if constexpr (kSums) {
      Unroll<2>([&](auto h) EF_INLINE {
        scale_[h] = _mm256_loadu_ps(r.scales + n + 8 * h);
        bias_[h] = _mm256_loadu_ps(r.bias + n + 8 * h);
      });
    }
  }

  // A pixel whose sums (or values), residual codes and results lie at x, `residual` and y.
  template <typename Element>
  inline EF_INLINE void Pixel(const Element* x, const uint8_t* residual, uint8_t* y) const {
    __m256 v[2];
    Unroll<2>([&](auto h) EF_INLINE {
      if constexpr (kSums) {
        const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8 * h));
        v[h] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale_[h]), bias_[h]);
      } else {
        v[h] = _mm256_loadu_ps(x + 8 * h);
      }
      if constexpr (kPlace == Residual::kBeforeActivation) v[h] = Add(v[h], residual + 8 * h);
      if constexpr (kClips) v[h] = Clip(v[h], clip_low_, clip_high_);
      if constexpr (kPlace == Residual::kAfterActivation) v[h] = Add(v[h], residual + 8 * h);
    });
    if constexpr (kCodes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y),
                       Pack(quantizer_.Codes(v[0]), quantizer_.Codes(v[1])));
    } else {
      Unroll<2>([&](auto h)
                    EF_INLINE { _mm256_storeu_ps(reinterpret_cast<float*>(y) + 8 * h, v[h]); });
    }
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Without anything in between, the quantizer clips for both.
  static constexpr bool kClips = !kCodes || kPlace == Residual::kAfterActivation;

  inline EF_INLINE __m256 Add(__m256 value, const uint8_t* residual) const {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual));
    const __m256i codes =
        residual_is_unsigned_ ? _mm256_cvtepu8_epi32(bytes) : _mm256_cvtepi8_epi32(bytes);
    return _mm256_add_ps(value, _mm256_mul_ps(_mm256_cvtepi32_ps(codes), residual_scale_));
  }

  Quantizer quantizer_;
  __m256 clip_low_, clip_high_;
  bool residual_is_unsigned_;
  __m256 residual_scale_;
  __m256 scale_[2], bias_[2];
};

// Channels n .. n + 15 of all pixels, or as many as there are: nothing beyond them may be read of
// the residual, or written.
template <bool kSums, bool kCodes, Residual kPlace, typename Element>
inline EF_INLINE void Run(const RequantizeArguments& r, const Element* x, int64_t n) {
  constexpr int64_t kElement = kCodes ? 1 : 4;
  constexpr bool kAdds = kPlace != Residual::kNone;
  const Columns<kSums, kCodes, kPlace> columns(r, n);
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride * kElement;
  const int64_t residual_stride = r.residual_stride;
  const uint8_t* residual = kAdds ? r.residual + n : nullptr;
  uint8_t* y = static_cast<uint8_t*>(r.y) + n * kElement;
  const size_t left = static_cast<size_t>(r.channels - n);
  for (int64_t i = 0; i < pixels; ++i, x += stride, y += y_stride) {
    if (left >= kLanes) {
      columns.Pixel(x + n, residual, y);
    } else {
      uint8_t codes[kLanes] = {};
      uint8_t results[kLanes * kElement];
      if constexpr (kAdds) std::memcpy(codes, residual, left);
      columns.Pixel(x + n, codes, results);
      std::memcpy(y, results, left * kElement);
    }
    if constexpr (kAdds) residual += residual_stride;
  }
}

template <bool kSums, bool kCodes, Residual kPlace>
void Run(const RequantizeArguments& r) {
  for (int64_t n = 0; n < r.channels; n += kLanes) {
    if constexpr (kSums) {
      Run<kSums, kCodes, kPlace>(r, r.sums, n);
    } else {
      Run<kSums, kCodes, kPlace>(r, r.values, n);
    }
  }
}

template <bool kSums, bool kCodes>
void RunPlace(const RequantizeArguments& r) {
  switch (r.place) {
    case Residual::kNone:
      return Run<kSums, kCodes, Residual::kNone>(r);
    case Residual::kBeforeActivation:
      return Run<kSums, kCodes, Residual::kBeforeActivation>(r);
    case Residual::kAfterActivation:
      return Run<kSums, kCodes, Residual::kAfterActivation>(r);
  }
}

}  // namespace

void requantize_x86_avx2(const RequantizeArguments& r) {
  if (r.range.is_float()) {
    r.sums != nullptr ? RunPlace<true, false>(r) : RunPlace<false, false>(r);
  } else {
    r.sums != nullptr ? RunPlace<true, true>(r) : RunPlace<false, true>(r);
  }
}

}  // namespace edgefold
