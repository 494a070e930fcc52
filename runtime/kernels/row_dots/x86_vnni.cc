// SPDX-License-Identifier: Apache-2.0
// vpdpbusd multiplies unsigned by signed bytes: the rows get 128 added (their sign bit flipped),
// and 128 * sum of x is taken off at the end.
#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/row_dots/row_dots.h"

namespace edgefold {
namespace {

constexpr int kRowsAtOnce = 16;  // whose sums fill a register
constexpr int64_t kXRows = 8;    // that pass over the same rows while these are in L1
constexpr int64_t kChunk = 64;

inline __mmask64 FirstBytes(int64_t bytes) {
  return bytes >= kChunk ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
}

// The sums of the lanes of sixteen registers, in their order.
inline __m512i SumLanes(const __m512i (&x)[kRowsAtOnce]) {
  __m512i four[4];
  Unroll<4>([&](auto i) EF_INLINE {
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(x[4 * i], x[4 * i + 1]),
                                       _mm512_unpackhi_epi32(x[4 * i], x[4 * i + 1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(x[4 * i + 2], x[4 * i + 3]),
                                       _mm512_unpackhi_epi32(x[4 * i + 2], x[4 * i + 3]));
    four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  });
  const __m512i low = _mm512_add_epi32(_mm512_shuffle_i32x4(four[0], four[1], 0x88),
                                       _mm512_shuffle_i32x4(four[0], four[1], 0xdd));
  const __m512i high = _mm512_add_epi32(_mm512_shuffle_i32x4(four[2], four[3], 0x88),
                                        _mm512_shuffle_i32x4(four[2], four[3], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x88),
                          _mm512_shuffle_i32x4(low, high, 0xdd));
}

// Sums of the rows from `first` on with one x; behind the last row it stands again.
inline __m512i Sixteen(const RowDotsArguments& d, const int8_t* x, int64_t first) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const int8_t* rows[kRowsAtOnce];
  __m512i sums[kRowsAtOnce];
  Unroll<kRowsAtOnce>([&](auto i) EF_INLINE {
    const int64_t n = first + i < d.count ? first + i : d.count - 1;
    rows[i] = d.rows + n * d.stride;
    sums[i] = _mm512_setzero_si512();
  });
  for (int64_t k = 0; k < d.depth; k += kChunk) {
    const __mmask64 mask = FirstBytes(d.depth - k);
    const __m512i codes = _mm512_maskz_loadu_epi8(mask, x + k);
    Unroll<kRowsAtOnce>([&](auto i) EF_INLINE {
      const __m512i row = _mm512_maskz_loadu_epi8(mask, rows[i] + k);
      sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_xor_si512(row, sign), codes);
    });
  }
  return SumLanes(sums);
}

inline int32_t SumOf(const RowDotsArguments& d, const int8_t* x) {
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < d.depth; k += kChunk) {
    const __m512i codes = _mm512_maskz_loadu_epi8(FirstBytes(d.depth - k), x + k);
    sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), codes);
  }
  return _mm512_reduce_add_epi32(sums);
}

}  // namespace

void row_dots_x86_vnni(const RowDotsArguments& d) {
  for (int64_t first = 0; first < d.x_rows; first += kXRows) {
    const int64_t x_rows = d.x_rows - first < kXRows ? d.x_rows - first : kXRows;
    const int8_t* x = d.x + first * d.x_stride;
    int32_t offsets[kXRows];
    for (int64_t m = 0; m < x_rows; ++m) offsets[m] = SumOf(d, x + m * d.x_stride) * 128;
    for (int64_t n = 0; n < d.count; n += kRowsAtOnce) {
      const int64_t left = d.count - n;
      const __mmask16 there = left >= kRowsAtOnce ? 0xffff : (1u << left) - 1;
      for (int64_t m = 0; m < x_rows; ++m) {
        const __m512i sums = Sixteen(d, x + m * d.x_stride, n);
        _mm512_mask_storeu_epi32(d.acc + (first + m) * d.acc_stride + n, there,
                                 _mm512_sub_epi32(sums, _mm512_set1_epi32(offsets[m])));
      }
    }
  }
}

}  // namespace edgefold
