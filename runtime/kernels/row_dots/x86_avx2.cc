// SPDX-License-Identifier: Apache-2.0
// vpmaddubsw multiplies unsigned by signed bytes in pairs and saturates at 16 bits: magnitudes of
// the rows times x with their signs stay within, 2 * 128 * 127.
#include "base/x86_avx2.h"

#include "base/unroll.h"
#include "kernels/row_dots/row_dots.h"

namespace edgefold {
namespace {

constexpr int kRowsAtOnce = 8;  // whose sums fill a register
constexpr int64_t kChunk = 32;

inline __m256i Products(const int8_t* x, const int8_t* row) {
  const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const __m256i other = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(other), _mm256_sign_epi8(codes, other));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// The sums of the lanes of eight registers, in their order.
inline __m256i SumLanes(const __m256i (&x)[kRowsAtOnce]) {
  const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
  const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(x[4], x[5]), _mm256_hadd_epi32(x[6], x[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}

// Sums of the rows from `first` on with one x; behind the last row it stands again.
inline __m256i Eight(const RowDotsArguments& d, const int8_t* x, int64_t first) {
  const int64_t whole = d.depth / kChunk * kChunk;
  const int8_t* rows[kRowsAtOnce];
  __m256i sums[kRowsAtOnce];
  Unroll<kRowsAtOnce>([&](auto i) EF_INLINE {
    const int64_t n = first + i < d.count ? first + i : d.count - 1;
    rows[i] = d.rows + n * d.stride;
    sums[i] = _mm256_setzero_si256();
  });
  for (int64_t k = 0; k < whole; k += kChunk) {
    Unroll<kRowsAtOnce>([&](auto i) EF_INLINE {
      sums[i] = _mm256_add_epi32(sums[i], Products(x + k, rows[i] + k));
    });
  }
  if (whole < d.depth) {
    Unroll<kRowsAtOnce>([&](auto i) EF_INLINE {
      int8_t last[kChunk] = {};
      __builtin_memcpy(last, rows[i] + whole, static_cast<size_t>(d.depth - whole));
      sums[i] = _mm256_add_epi32(sums[i], Products(x + whole, last));
    });
  }
  return SumLanes(sums);
}

}  // namespace

void row_dots_x86_avx2(const RowDotsArguments& d) {
  for (int64_t n = 0; n < d.count; n += kRowsAtOnce) {
    const int64_t left = d.count - n < kRowsAtOnce ? d.count - n : kRowsAtOnce;
    for (int64_t m = 0; m < d.x_rows; ++m) {
      const __m256i sums = Eight(d, d.x + m * d.x_stride, n);
      __builtin_memcpy(d.acc + m * d.acc_stride + n, &sums, static_cast<size_t>(left) * 4);
    }
  }
}

}  // namespace edgefold
