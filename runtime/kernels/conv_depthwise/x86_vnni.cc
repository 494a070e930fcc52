// SPDX-License-Identifier: Apache-2.0
// Four taps at a time: the bytes of four positions side by side in a lane of each channel, and one
// vpdpbusd. It multiplies unsigned by signed bytes: int8 codes get 128 added, and 128 times the sum
// of the weights is taken off.
#include <immintrin.h>

#include <algorithm>

#include "base/unroll.h"
#include "kernels/conv_depthwise/conv_depthwise.h"

namespace edgefold {
namespace {

__m128i Load(const uint8_t* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// Byte 4 * c + i: channel c at place i, for as many places as there are.
template <bool kUnsigned, int kPlaces>
inline EF_INLINE __m512i Quads(const uint8_t* const* places, int64_t at) {
  __m512i all;
  if constexpr (kPlaces == 1) {
    all = _mm512_cvtepu8_epi32(Load(places[0] + at));
  } else {
    const __m512i order = _mm512_add_epi32(
        _mm512_set1_epi32(0x30201000),
        _mm512_mullo_epi32(
            _mm512_set1_epi32(0x01010101),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    const __m256i two = _mm256_inserti128_si256(_mm256_castsi128_si256(Load(places[0] + at)),
                                                Load(places[1] + at), 1);
    all = _mm512_castsi256_si512(two);
    if constexpr (kPlaces > 2) all = _mm512_inserti32x4(all, Load(places[2] + at), 2);
    if constexpr (kPlaces > 3) all = _mm512_inserti32x4(all, Load(places[3] + at), 3);
    all = _mm512_permutexvar_epi8(order, all);
  }
  return kUnsigned ? all : _mm512_xor_si512(all, _mm512_set1_epi8(static_cast<char>(0x80)));
}

// What the sums of int8 codes start from.
inline EF_INLINE __m512i Offset(__m512i start, __m512i weights) {
  const __m512i added = _mm512_set1_epi8(static_cast<char>(0x80));
  return _mm512_sub_epi32(start, _mm512_dpbusd_epi32(_mm512_setzero_si512(), added, weights));
}

// Weights of tap t as byte kPlace of every lane, the others as they are.
template <int kPlace>
inline EF_INLINE __m512i Insert(__m512i quads, const int16_t* pairs, int t) {
  const __m512i pair = _mm512_loadu_si512(pairs + t / 2 * 32);
  const __m512i weight = t % 2 == 0 ? pair : _mm512_srli_epi32(pair, 16);
  constexpr __mmask64 kByte = 0x1111111111111111ull << kPlace;
  return _mm512_mask_mov_epi8(quads, kByte, _mm512_slli_epi32(weight, 8 * kPlace));
}

// A kernel of kSize rows and columns, whose columns lie one input pixel apart and windows kStride:
// what is made of a column of the input serves all windows that see it.
template <bool kUnsigned, int kSize, int kStride>
void SlidePanel(const ConvDepthwiseArguments& d, const uint8_t* const* first_rows,
                const int16_t* pairs, int64_t panel) {
  constexpr int kParts = (kSize + 3) / 4;  // of a column
  __m512i weights[kSize][kParts];
  __m512i start = _mm512_setzero_si512();
  Unroll<kSize>([&](auto column) EF_INLINE {
    Unroll<kParts>([&](auto part) EF_INLINE {
      __m512i quads = _mm512_setzero_si512();
      constexpr int kPlaces = kSize - 4 * part < 4 ? kSize - 4 * part : 4;
      Unroll<kPlaces>([&](auto place) EF_INLINE {
        quads = Insert<place>(quads, pairs, (4 * part + place) * kSize + column);
      });
      weights[column][part] = quads;
      if constexpr (!kUnsigned) start = Offset(start, quads);
    });
  });
  const uint8_t* rows[kSize];
  Unroll<kSize>([&](auto r) EF_INLINE { rows[r] = first_rows[r] + panel * d.panel_step; });
  const int64_t step = d.step / kStride;
  int64_t at = 0;  // of the next column
  __m512i columns[kSize][kParts];
  const auto fill = [&](auto column) EF_INLINE {
    Unroll<kParts>([&](auto part) EF_INLINE {
      constexpr int kPlaces = kSize - 4 * part < 4 ? kSize - 4 * part : 4;
      columns[column][part] = Quads<kUnsigned, kPlaces>(rows + 4 * part, at);
    });
    at += step;
  };
  Unroll<kSize - kStride>(fill);
  int32_t* acc = d.acc + panel * 16;
  const int64_t acc_stride = d.acc_stride;
  // After kSize pixels every register has its old meaning: no moves.
  for (int64_t left = d.pixels; left > 0; left -= kSize) {
    Unroll<kSize>([&](auto i) EF_INLINE {
      if (i >= left) return;
      Unroll<kStride>(
          [&](auto n) EF_INLINE { fill(Index<(kStride * i + kSize - kStride + n) % kSize>{}); });
      __m512i sums = start;
      Unroll<kSize>([&](auto column) EF_INLINE {
        constexpr int kAt = (kStride * i + column) % kSize;
        Unroll<kParts>([&](auto part) EF_INLINE {
          sums = _mm512_dpbusd_epi32(sums, columns[kAt][part], weights[column][part]);
        });
      });
      _mm512_storeu_si512(acc, sums);
      acc += acc_stride;
    });
  }
}

template <bool kUnsigned, int kSize, int kStride>
void Slide(const ConvDepthwiseArguments& d) {
  const uint8_t* rows[kSize];
  for (int r = 0; r < kSize; ++r) rows[r] = d.x + d.offsets[r * kSize];
  constexpr int64_t kPairs = (kSize * kSize + 1) / 2 * 32;
  for (int64_t p = 0; p < d.panels; ++p) {
    SlidePanel<kUnsigned, kSize, kStride>(d, rows, d.weights + p * kPairs, p);
  }
}

// Whether Slide<., kSize, kStride> is right.
inline bool Slides(const ConvDepthwiseArguments& d, int64_t size, int64_t stride) {
  if (d.taps != size * size) return false;
  for (const int64_t* row = d.offsets; row < d.offsets + d.taps; row += size) {
    for (int64_t column = 1; column < size; ++column) {
      if ((row[column] - row[0]) * stride != column * d.step) return false;
    }
  }
  return true;
}

// Taps anywhere. kPixels pixels share every load of weights.
template <bool kUnsigned, int kPixels>
void Block(const ConvDepthwiseArguments& d, int64_t first) {
  const __m512i even_bytes = _mm512_add_epi32(
      _mm512_set1_epi32(0x42400200),
      _mm512_mullo_epi32(_mm512_set1_epi32(0x04040404),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
  __m512i sums[kPixels];
  __m512i start = _mm512_setzero_si512();
  Unroll<kPixels>([&](auto i) EF_INLINE { sums[i] = _mm512_setzero_si512(); });
  for (int64_t t = 0; t < d.taps; t += 4) {
    const __m512i low = _mm512_loadu_si512(d.weights + t * 16);
    const __m512i high =
        t + 2 < d.taps ? _mm512_loadu_si512(d.weights + t * 16 + 32) : _mm512_setzero_si512();
    const __m512i weights = _mm512_permutex2var_epi8(low, even_bytes, high);
    if constexpr (!kUnsigned) start = Offset(start, weights);
    const uint8_t* places[4];
    for (int64_t i = 0; i < 4; ++i) {
      places[i] = d.x + first * d.step + d.offsets[std::min(t + i, d.taps - 1)];  // weight 0 beyond
    }
    Unroll<kPixels>([&](auto i) EF_INLINE {
      const __m512i codes = Quads<kUnsigned, 4>(places, i * d.step);
      sums[i] = _mm512_dpbusd_epi32(sums[i], codes, weights);
    });
  }
  Unroll<kPixels>([&](auto i) EF_INLINE {
    _mm512_storeu_si512(d.acc + (first + i) * d.acc_stride, _mm512_add_epi32(sums[i], start));
  });
}

template <bool kUnsigned>
void Run(const ConvDepthwiseArguments& d) {
  if (d.pixels > 1) {
    if (Slides(d, 3, 1)) return Slide<kUnsigned, 3, 1>(d);
    if (Slides(d, 3, 2)) return Slide<kUnsigned, 3, 2>(d);
    if (Slides(d, 5, 1)) return Slide<kUnsigned, 5, 1>(d);
    if (Slides(d, 5, 2)) return Slide<kUnsigned, 5, 2>(d);
    if (Slides(d, 7, 1)) return Slide<kUnsigned, 7, 1>(d);
  }
  for (int64_t p = 0; p < d.panels; ++p) {
    const ConvDepthwiseArguments panel = d.Panel(p);
    int64_t i = 0;
    for (; i + 4 <= d.pixels; i += 4) Block<kUnsigned, 4>(panel, i);
    for (; i < d.pixels; ++i) Block<kUnsigned, 1>(panel, i);
  }
}

}  // namespace

void conv_depthwise_x86_vnni(const ConvDepthwiseArguments& d) {
  d.is_unsigned ? Run<true>(d) : Run<false>(d);
}

}  // namespace edgefold
