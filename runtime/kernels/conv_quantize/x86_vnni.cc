// SPDX-License-Identifier: Apache-2.0
// Sixteen pixels of sixteen channels at a time, turned while they are bytes.
#include "base/x86_vnni.h"

#include <algorithm>

#include "base/unroll.h"
#include "kernels/conv_quantize/conv_quantize.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;

class Quantizer {
 public:
  explicit Quantizer(const ConvQuantizeArguments& q)
      : divider_(q.scale),
        high_(_mm512_set1_ps(static_cast<float>(q.high) * q.scale)),
        low_(_mm512_set1_epi8(static_cast<char>(q.low))),
        is_unsigned_(q.low >= 0) {}

  // Dword i: the codes of up to four channels at pixel i, lowest byte first.
  inline EF_INLINE __m512i Quad(const float* x, int64_t channel_stride, int64_t channels,
                                __mmask16 pixels) const {
    __m512i codes[4];
    Unroll<4>([&](auto c) EF_INLINE {
      const __mmask16 there = c < channels ? pixels : __mmask16{0};
      const float* plane = c < channels ? x + c * channel_stride : x;
      // The smaller one; a NaN stays, and becomes less than every code.
      const __m512 value = _mm512_min_ps(high_, _mm512_maskz_loadu_ps(there, plane));
      codes[c] = divider_.Round(value);
    });
    const __m512i first = _mm512_packs_epi32(codes[0], codes[1]);
    const __m512i second = _mm512_packs_epi32(codes[2], codes[3]);
    const __m512i by_pixel =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i bytes = is_unsigned_ ? _mm512_max_epu8(_mm512_packus_epi16(first, second), low_)
                                       : _mm512_max_epi8(_mm512_packs_epi16(first, second), low_);
    return _mm512_shuffle_epi8(bytes, by_pixel);
  }

 private:
  Divider divider_;
  __m512 high_;
  __m512i low_;
  bool is_unsigned_;
};

// Quads of sixteen channels: pixel i's sixteen bytes are lane i / 4 of pixels[i % 4].
void Turn(const __m512i (&quads)[4], __m512i (&pixels)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(quads[0], quads[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(quads[2], quads[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(quads[0], quads[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(quads[2], quads[3]);
  pixels[0] = _mm512_unpacklo_epi64(low01, low23);
  pixels[1] = _mm512_unpackhi_epi64(low01, low23);
  pixels[2] = _mm512_unpacklo_epi64(high01, high23);
  pixels[3] = _mm512_unpackhi_epi64(high01, high23);
}

// All channels of some pixels side by side, of at most four.
void RunFew(const ConvQuantizeArguments& q, const Quantizer& quantizer) {
  alignas(64) uint8_t order[64] = {};
  for (int64_t i = 0; i < kLanes * q.channels; ++i) {
    order[i] = static_cast<uint8_t>(i / q.channels * 4 + i % q.channels);
  }
  const __m512i packed = _mm512_load_si512(order);
  for (int64_t i = 0; i < q.pixels; i += kLanes) {
    const int64_t pixels = std::min<int64_t>(kLanes, q.pixels - i);
    const __mmask16 lanes = static_cast<__mmask16>((1u << pixels) - 1);
    const __m512i quad = quantizer.Quad(q.x + i, q.channel_stride, q.channels, lanes);
    const int64_t bytes = pixels * q.channels;
    const __mmask64 mask = bytes == 64 ? ~0ull : (1ull << bytes) - 1;
    _mm512_mask_storeu_epi8(q.codes + i * q.channels, mask, _mm512_permutexvar_epi8(packed, quad));
  }
}

void Run(const ConvQuantizeArguments& q, const Quantizer& quantizer) {
  for (int64_t c = 0; c < q.channels; c += 16) {
    const int64_t channels = std::min<int64_t>(16, q.channels - c);
    const __mmask16 bytes = static_cast<__mmask16>((1u << channels) - 1);
    const float* planes = q.x + c * q.channel_stride;
    for (int64_t i = 0; i < q.pixels; i += kLanes) {
      const int64_t pixels = std::min<int64_t>(kLanes, q.pixels - i);
      const __mmask16 lanes = static_cast<__mmask16>((1u << pixels) - 1);
      __m512i quads[4];
      Unroll<4>([&](auto j) EF_INLINE {
        quads[j] =
            quantizer.Quad(planes + i + std::min<int64_t>(4 * j, channels - 1) * q.channel_stride,
                           q.channel_stride, channels - 4 * j, lanes);
      });
      __m512i turned[4];
      Turn(quads, turned);
      alignas(64) __m128i of_pixel[4][4];
      Unroll<4>([&](auto j) EF_INLINE { _mm512_store_si512(of_pixel[j], turned[j]); });
      uint8_t* to = q.codes + i * q.pixel_stride + c;
      for (int64_t p = 0; p < pixels; ++p, to += q.pixel_stride) {
        const __m128i codes = of_pixel[p % 4][p / 4];
        if (channels == 16) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
        } else {
          _mm_mask_storeu_epi8(to, bytes, codes);
        }
      }
    }
  }
}

}  // namespace

void conv_quantize_x86_vnni(const ConvQuantizeArguments& q) {
  const bool divides = q.scale >= 0x1p-64f && q.scale <= 0x1p64f;
  if (q.steps != nullptr || !divides) return conv_quantize_x86_avx2(q);
  const Quantizer quantizer(q);
  if (q.channels <= 4 && q.pixel_stride == q.channels) return RunFew(q, quantizer);
  Run(q, quantizer);
}

}  // namespace edgefold
