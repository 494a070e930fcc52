// SPDX-License-Identifier: Apache-2.0
// Two taps at a time: bytes of both interleaved, widened to 16 bits, multiplied and added in pairs.
#include <immintrin.h>

#include "base/unroll.h"
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
    __m256i* acc = reinterpret_cast<__m256i*>(d.acc + (first + i) * d.acc_stride);
    _mm256_storeu_si256(acc, low[i]);
    _mm256_storeu_si256(acc + 1, high[i]);
  }
}

// Whether the kernel is 3x3 and its columns lie one output pixel apart, as with stride 1.
bool Slides(const ConvDepthwiseArguments& d) {
  if (d.taps != 9) return false;
  for (int t = 0; t < 9; ++t) {
    if (d.offsets[t] != d.offsets[t - t % 3] + t % 3 * d.step) return false;
  }
  return true;
}

// Then what is made of a column of the input serves the three pixels that see it. Eight channels:
// first two rows of a column make pairs, then the last row's columns with their neighbours.
template <bool kUnsigned>
void Slide(const ConvDepthwiseArguments& d, int half) {
  const __m256i* weights = reinterpret_cast<const __m256i*>(d.weights) + half;
  __m256i taps[5];  // 0 1, 2 3, 4 5, 6 7, 8
  for (int p = 0; p < 5; ++p) taps[p] = _mm256_loadu_si256(weights + 2 * p);
  const auto odd_even = [](__m256i a, __m256i b) {
    return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), _mm256_slli_epi32(b, 16), 0xaa);
  };
  const __m256i taps03 = _mm256_blend_epi16(taps[0], taps[1], 0xaa);
  const __m256i taps14 = odd_even(taps[0], taps[2]);
  const __m256i taps25 = _mm256_blend_epi16(taps[1], taps[2], 0xaa);
  const __m256i tap6 = _mm256_blend_epi16(taps[3], _mm256_setzero_si256(), 0xaa);
  const __m256i taps78 = odd_even(taps[3], taps[4]);

  const uint8_t* x = d.x + 8 * half;
  const uint8_t* rows[3] = {x + d.offsets[0], x + d.offsets[3], x + d.offsets[6]};
  const int64_t step = d.step;
  const int64_t acc_stride = d.acc_stride;
  const auto load = [&](int row, int64_t column) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[row] + column * step));
  };
  const auto pair = [](__m128i a, __m128i b) { return Widen<kUnsigned>(_mm_unpacklo_epi8(a, b)); };
  __m256i columns[3] = {pair(load(0, 0), load(1, 0)), pair(load(0, 1), load(1, 1))};
  __m128i last[2] = {load(2, 1)};
  __m256i below[2] = {pair(load(2, 0), last[0])};
  int32_t* acc = d.acc + 8 * half;
  // After six pixels every register has its old meaning: no moves.
  for (int64_t left = d.pixels; left > 0; left -= 6) {
    Unroll<6>([&](auto i) EF_INLINE {
      if (i >= left) return;
      columns[(i + 2) % 3] = pair(load(0, 2), load(1, 2));
      last[(i + 1) % 2] = load(2, 2);
      below[(i + 1) % 2] = pair(last[i % 2], last[(i + 1) % 2]);
      for (const uint8_t*& row : rows) row += step;
      const __m256i upper = _mm256_add_epi32(_mm256_madd_epi16(columns[i % 3], taps03),
                                             _mm256_madd_epi16(columns[(i + 1) % 3], taps14));
      const __m256i lower = _mm256_add_epi32(_mm256_madd_epi16(below[i % 2], tap6),
                                             _mm256_madd_epi16(below[(i + 1) % 2], taps78));
      const __m256i right =
          _mm256_add_epi32(_mm256_madd_epi16(columns[(i + 2) % 3], taps25), upper);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc), _mm256_add_epi32(right, lower));
      acc += acc_stride;
    });
  }
}

template <bool kUnsigned>
void Run(const ConvDepthwiseArguments& d) {
  if (d.pixels > 1 && Slides(d)) {
    Slide<kUnsigned>(d, 0);
    return Slide<kUnsigned>(d, 1);
  }
  int64_t i = 0;
  for (; i + 4 <= d.pixels; i += 4) Block<kUnsigned, 4>(d, i);
  for (; i < d.pixels; ++i) Block<kUnsigned, 1>(d, i);
}

}  // namespace

void conv_depthwise_x86_avx2(const ConvDepthwiseArguments& d) {
  for (int64_t p = 0; p < d.panels; ++p) {
    const ConvDepthwiseArguments panel = d.Panel(p);
    d.is_unsigned ? Run<true>(panel) : Run<false>(panel);
  }
}

}  // namespace edgefold
