// SPDX-License-Identifier: Apache-2.0
// Two taps at a time: bytes of both interleaved, widened to 16 bits, multiplied and added in pairs.
#include <immintrin.h>

#include "kernels/conv_depthwise/conv_depthwise.h"

namespace edgefold {
namespace {

template <bool kUnsigned>
__m256i Widen(__m128i bytes) {
  return kUnsigned ? _mm256_cvtepu8_epi16(bytes) : _mm256_cvtepi8_epi16(bytes);
}

__m128i Load(const uint8_t* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// kPixels pixels share every load of weights.
template <bool kUnsigned, int kPixels>
void Block(const ConvDepthwiseArguments& d, int64_t first) {
  __m256i low[kPixels];
  __m256i high[kPixels];
  for (int i = 0; i < kPixels; ++i) low[i] = high[i] = _mm256_setzero_si256();
  const uint8_t* x = d.x + first * d.step;
  for (int64_t t = 0; t < d.taps; t += 2) {
    const __m256i* weights = reinterpret_cast<const __m256i*>(d.weights + t * 16);
    const __m256i weights_low = _mm256_loadu_si256(weights);
    const __m256i weights_high = _mm256_loadu_si256(weights + 1);
    const uint8_t* even = x + d.offsets[t];
    const uint8_t* odd = t + 1 < d.taps ? x + d.offsets[t + 1] : even;  // weight 0
    for (int i = 0; i < kPixels; ++i) {
      const __m128i a = Load(even + i * d.step);
      const __m128i b = Load(odd + i * d.step);
      const __m256i pairs_low = Widen<kUnsigned>(_mm_unpacklo_epi8(a, b));
      const __m256i pairs_high = Widen<kUnsigned>(_mm_unpackhi_epi8(a, b));
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs_low, weights_low));
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs_high, weights_high));
    }
  }
  for (int i = 0; i < kPixels; ++i) {
    __m256i* acc = reinterpret_cast<__m256i*>(d.acc + (first + i) * 16);
    _mm256_storeu_si256(acc, low[i]);
    _mm256_storeu_si256(acc + 1, high[i]);
  }
}

template <bool kUnsigned>
void Run(const ConvDepthwiseArguments& d) {
  int64_t i = 0;
  for (; i + 4 <= d.pixels; i += 4) Block<kUnsigned, 4>(d, i);
  for (; i < d.pixels; ++i) Block<kUnsigned, 1>(d, i);
}

}  // namespace

void conv_depthwise_x86_avx2(const ConvDepthwiseArguments& d) {
  d.is_unsigned ? Run<true>(d) : Run<false>(d);
}

}  // namespace edgefold
