// SPDX-License-Identifier: Apache-2.0
// vpdpbusd sums four products of neighbouring bytes: four rows are interleaved in registers, within
// their 128-bit lanes, and the sums put in order at the end.
#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/row_sums/row_sums.h"

namespace edgefold {
namespace {

constexpr int kWeightRows = 4;  // at once
constexpr int kDeep = 4;        // rows of a vpdpbusd
constexpr int64_t kChunk = 64;  // columns

inline __mmask64 FirstBytes(int64_t bytes) {
  return bytes >= kChunk ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
}

// Register j, lane i: columns 16 * i + 4 * j and the three behind it, of rows n to n + 3. Behind
// the last row it stands again, for weights that are zero.
inline void Interleave(const RowSumsArguments& s, int64_t n, int64_t column, __mmask64 mask,
                       __m512i (&out)[kDeep]) {
  __m512i row[kDeep];
  Unroll<kDeep>([&](auto i) EF_INLINE {
    const int64_t at = n + i < s.count ? n + i : s.count - 1;
    row[i] = _mm512_maskz_loadu_epi8(mask, s.rows + at * s.stride + column);
  });
  const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
  const __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
  const __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
  out[0] = _mm512_unpacklo_epi16(low01, low23);
  out[1] = _mm512_unpackhi_epi16(low01, low23);
  out[2] = _mm512_unpacklo_epi16(high01, high23);
  out[3] = _mm512_unpackhi_epi16(high01, high23);
}

inline __m512i FourWeights(const uint8_t* four) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, 4);
  return _mm512_set1_epi32(bytes);
}

// Writes the sums of up to 64 columns.
inline void Store(const __m512i (&sums)[kDeep], int64_t columns, int32_t* out) {
  // Lane i of all four registers: 16 columns in order.
  const __m512i a = _mm512_shuffle_i32x4(sums[0], sums[1], 0x44);
  const __m512i b = _mm512_shuffle_i32x4(sums[2], sums[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(sums[0], sums[1], 0xee);
  const __m512i d = _mm512_shuffle_i32x4(sums[2], sums[3], 0xee);
  const __m512i inside[4] = {_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd),
                             _mm512_shuffle_i32x4(c, d, 0x88), _mm512_shuffle_i32x4(c, d, 0xdd)};
  Unroll<4>([&](auto i) EF_INLINE {
    const int64_t left = columns - i * 16;
    const __mmask16 there = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
    _mm512_mask_storeu_epi32(out + i * 16, there, inside[i]);
  });
}

template <int kRows>
void Chunk(const RowSumsArguments& s, int64_t first, int64_t column) {
  const __mmask64 mask = FirstBytes(s.columns - column);
  const uint8_t* weights = s.weights + first * s.weight_stride;
  __m512i sums[kRows][kDeep];
  Unroll<kRows>([&](auto m) EF_INLINE {
    Unroll<kDeep>([&](auto j) EF_INLINE { sums[m][j] = _mm512_setzero_si512(); });
  });
  for (int64_t n = 0; n < s.count; n += kDeep) {
    __m512i codes[kDeep];
    Interleave(s, n, column, mask, codes);
    Unroll<kRows>([&](auto m) EF_INLINE {
      const __m512i w = FourWeights(weights + m * s.weight_stride + n);
      Unroll<kDeep>([&](auto j)
                        EF_INLINE { sums[m][j] = _mm512_dpbusd_epi32(sums[m][j], w, codes[j]); });
    });
  }
  Unroll<kRows>([&](auto m) EF_INLINE {
    Store(sums[m], s.columns - column, s.acc + (first + m) * s.acc_stride + column);
  });
}

using ChunkFunction = void(const RowSumsArguments&, int64_t, int64_t);
constexpr ChunkFunction* kChunks[kWeightRows] = {Chunk<1>, Chunk<2>, Chunk<3>, Chunk<4>};

}  // namespace

void row_sums_x86_vnni(const RowSumsArguments& s) {
  for (int64_t column = 0; column < s.columns; column += kChunk) {
    for (int64_t m = 0; m < s.weight_rows; m += kWeightRows) {
      const int64_t rows = s.weight_rows - m < kWeightRows ? s.weight_rows - m : kWeightRows;
      kChunks[rows - 1](s, m, column);
    }
  }
}

}  // namespace edgefold
