// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstring>

#include "kernels/conv_quantize/conv_quantize.h"

namespace edgefold {
namespace {

constexpr int kHalfEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// Eight pixels of one channel as codes in the low byte of each lane.
template <bool kStepped>
class Quantizer {
 public:
  Quantizer(const ConvQuantizeArguments& q, int64_t lanes)
      : q_(q),
        scale_(_mm256_set1_ps(q.scale)),
        low_(_mm256_set1_ps(static_cast<float>(q.low))),
        high_(_mm256_set1_ps(static_cast<float>(q.high))),
        mask_(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)),
                                 _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}

  __m256i Codes(const float* pixels, int64_t channel) const {
    const __m256 x = _mm256_maskload_ps(pixels + channel * q_.channel_stride, mask_);
    const __m256 step = _mm256_set1_ps(kStepped ? q_.steps[channel] : 1.0f);
    __m256 value = _mm256_div_ps(x, kStepped ? _mm256_mul_ps(scale_, step) : scale_);
    value = _mm256_min_ps(_mm256_max_ps(value, low_), high_);  // max gives `low` for NaN
    if (kStepped) value = _mm256_mul_ps(_mm256_round_ps(value, kHalfEven), step);
    return _mm256_and_si256(_mm256_cvtps_epi32(value), _mm256_set1_epi32(255));
  }

  // Lane i: the codes of up to four channels, from `first` on, at pixel i, lowest byte first.
  __m256i Quad(const float* x, int64_t first, int64_t channels) const {
    __m256i quad = Codes(x, first);
    if (channels > 1) quad = Join(quad, Codes(x, first + 1), 8);
    if (channels > 2) quad = Join(quad, Codes(x, first + 2), 16);
    if (channels > 3) quad = Join(quad, Codes(x, first + 3), 24);
    return quad;
  }

 private:
  static __m256i Join(__m256i quad, __m256i codes, int shift) {
    return _mm256_or_si256(quad, _mm256_slli_epi32(codes, shift));
  }

  const ConvQuantizeArguments& q_;
  __m256 scale_;
  __m256 low_;
  __m256 high_;
  __m256i mask_;
};

// Sixteen channels, four of them in each quad, of `lanes` pixels.
void StoreSixteen(const __m256i* quad, uint8_t* codes, int64_t pixel_stride, int64_t lanes) {
  const __m256i low01 = _mm256_unpacklo_epi32(quad[0], quad[1]);  // pixels 0 1 | 4 5
  const __m256i low23 = _mm256_unpacklo_epi32(quad[2], quad[3]);
  const __m256i high01 = _mm256_unpackhi_epi32(quad[0], quad[1]);  // pixels 2 3 | 6 7
  const __m256i high23 = _mm256_unpackhi_epi32(quad[2], quad[3]);
  const __m256i pixels[4] = {
      _mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
      _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
  for (int64_t i = 0; i < lanes; ++i) {
    const __m256i pair = pixels[i & 3];
    const __m128i bytes = i < 4 ? _mm256_castsi256_si128(pair) : _mm256_extracti128_si256(pair, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i * pixel_stride), bytes);
  }
}

void StoreQuad(__m256i quad, int64_t channels, uint8_t* codes, int64_t pixel_stride,
               int64_t lanes) {
  alignas(32) uint32_t words[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), quad);
  for (int64_t i = 0; i < lanes; ++i) {
    uint8_t* pixel = codes + i * pixel_stride;
    if (channels == 4) {
      std::memcpy(pixel, &words[i], 4);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) pixel[c] = static_cast<uint8_t>(words[i] >> 8 * c);
  }
}

template <bool kStepped>
void Run(const ConvQuantizeArguments& q) {
  for (int64_t i = 0; i < q.pixels; i += 8) {
    const int64_t lanes = q.pixels - i < 8 ? q.pixels - i : 8;
    const Quantizer<kStepped> quantizer(q, lanes);
    const float* x = q.x + i;
    uint8_t* codes = q.codes + i * q.pixel_stride;
    int64_t c = 0;
    for (; c + 16 <= q.channels; c += 16) {
      __m256i quad[4];
      for (int j = 0; j < 4; ++j) quad[j] = quantizer.Quad(x, c + 4 * j, 4);
      StoreSixteen(quad, codes + c, q.pixel_stride, lanes);
    }
    for (; c < q.channels; c += 4) {
      const int64_t count = q.channels - c < 4 ? q.channels - c : 4;
      const __m256i quad = quantizer.Quad(x, c, count);
      StoreQuad(quad, count, codes + c, q.pixel_stride, lanes);
    }
  }
}

}  // namespace

void conv_quantize_x86_avx2(const ConvQuantizeArguments& q) {
  if (q.steps == nullptr) return Run<false>(q);
  Run<true>(q);
}

}  // namespace edgefold
