// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstring>

#include "base/unroll.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: two registers, one store of codes

// max gives `low` for NaN.
inline EF_INLINE __m256 Clip(__m256 value, __m256 low, __m256 high) {
  return _mm256_min_ps(_mm256_max_ps(value, low), high);
}

// Sixteen codes from 32-bit lanes, which hold them already clipped.
inline EF_INLINE __m128i Pack(__m256i first, __m256i second) {
  const __m256i words = _mm256_packs_epi32(first, second);
  const __m128i low = _mm256_castsi256_si128(words);  // first 0..3, second 0..3
  const __m128i high = _mm256_extracti128_si256(words, 1);
  const __m128i mask = _mm_set1_epi16(255);
  const __m128i bytes = _mm_packus_epi16(_mm_and_si128(low, mask), _mm_and_si128(high, mask));
  return _mm_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0));
}

template <bool kSums, bool kCodes, Residual kPlace>
class Columns {
 public:
  // Channels n .. n + 15.
  inline EF_INLINE Columns(const RequantizeArguments& r, int64_t n)
      : r_(r),
        n_(n),
        clip_low_(_mm256_set1_ps(r.clip_low)),
        clip_high_(_mm256_set1_ps(r.clip_high)),
        y_scale_(_mm256_set1_ps(r.y_scale)),
        low_(_mm256_set1_ps(static_cast<float>(r.range.low))),
        high_(_mm256_set1_ps(static_cast<float>(r.range.high))),
        residual_scale_(_mm256_set1_ps(r.residual_scale)) {
    if constexpr (kSums) {
      Unroll<2>([&](auto h) EF_INLINE {
        scale_[h] = _mm256_loadu_ps(r.scales + n + 8 * h);
        bias_[h] = _mm256_loadu_ps(r.bias + n + 8 * h);
      });
    }
  }

  // Pixel i, whose residual codes and results lie at `residual` and `y`.
  inline EF_INLINE void Pixel(int64_t i, const uint8_t* residual, void* y) const {
    __m256 v[2];
    Unroll<2>([&](auto h) EF_INLINE {
      const int64_t at = i * r_.stride + n_ + 8 * h;
      if constexpr (kSums) {
        const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(r_.sums + at));
        v[h] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale_[h]), bias_[h]);
      } else {
        v[h] = _mm256_loadu_ps(r_.values + at);
      }
      if constexpr (kPlace == Residual::kBeforeActivation) v[h] = Add(v[h], residual + 8 * h);
      v[h] = Clip(v[h], clip_low_, clip_high_);
      if constexpr (kPlace == Residual::kAfterActivation) v[h] = Add(v[h], residual + 8 * h);
    });
    if constexpr (kCodes) {
      __m256i codes[2];
      Unroll<2>([&](auto h) EF_INLINE {
        codes[h] = _mm256_cvtps_epi32(Clip(_mm256_div_ps(v[h], y_scale_), low_, high_));
      });
      _mm_storeu_si128(static_cast<__m128i*>(y), Pack(codes[0], codes[1]));
    } else {
      Unroll<2>([&](auto h) EF_INLINE { _mm256_storeu_ps(static_cast<float*>(y) + 8 * h, v[h]); });
    }
  }

 private:
  inline EF_INLINE __m256 Add(__m256 value, const uint8_t* residual) const {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual));
    const __m256i codes =
        r_.residual_is_unsigned ? _mm256_cvtepu8_epi32(bytes) : _mm256_cvtepi8_epi32(bytes);
    return _mm256_add_ps(value, _mm256_mul_ps(_mm256_cvtepi32_ps(codes), residual_scale_));
  }

  const RequantizeArguments& r_;
  int64_t n_;
  __m256 clip_low_, clip_high_, y_scale_, low_, high_, residual_scale_;
  __m256 scale_[2], bias_[2];
};

template <bool kSums, bool kCodes, Residual kPlace>
void Run(const RequantizeArguments& r) {
  constexpr int64_t kElement = kCodes ? 1 : 4;
  int64_t n = 0;
  for (; n + kLanes <= r.channels; n += kLanes) {
    const Columns<kSums, kCodes, kPlace> columns(r, n);
    uint8_t* y = static_cast<uint8_t*>(r.y) + n * kElement;
    for (int64_t i = 0; i < r.pixels; ++i, y += r.y_stride * kElement) {
      const bool added = kPlace != Residual::kNone;
      columns.Pixel(i, added ? r.residual + i * r.residual_stride + n : nullptr, y);
    }
  }
  if (n == r.channels) return;
  // Fewer than sixteen: nothing beyond them may be read of the residual or written.
  const Columns<kSums, kCodes, kPlace> columns(r, n);
  const size_t left = static_cast<size_t>(r.channels - n);
  for (int64_t i = 0; i < r.pixels; ++i) {
    uint8_t residual[kLanes] = {};
    uint8_t y[kLanes * kElement];
    if constexpr (kPlace != Residual::kNone) {
      std::memcpy(residual, r.residual + i * r.residual_stride + n, left);
    }
    columns.Pixel(i, residual, y);
    std::memcpy(static_cast<uint8_t*>(r.y) + (i * r.y_stride + n) * kElement, y, left * kElement);
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
