// SPDX-License-Identifier: Apache-2.0
// Weights go up to 255, so that pairs of products would saturate in vpmaddubsw: two rows are
// widened to 16 bits, interleaved, and multiplied by vpmaddwd.
#include "base/x86_avx2.h"

#include "base/unroll.h"
#include "kernels/row_sums/row_sums.h"

namespace edgefold {
namespace {

constexpr int kWeightRows = 4;  // at once
constexpr int64_t kChunk = 16;  // columns

inline __m256i Load(const int8_t* row, int64_t columns) {
  int8_t last[kChunk] = {};
  if (columns < kChunk)
    row = static_cast<const int8_t*>(__builtin_memcpy(last, row, static_cast<size_t>(columns)));
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
}

template <int kRows>
void Chunk(const RowSumsArguments& s, int64_t first, int64_t column) {
  const int64_t columns = s.columns - column < kChunk ? s.columns - column : kChunk;
  const uint8_t* weights = s.weights + first * s.weight_stride;
  __m256i sums[kRows][2];
  Unroll<kRows>([&](auto m) EF_INLINE { sums[m][0] = sums[m][1] = _mm256_setzero_si256(); });
  for (int64_t n = 0; n < s.count; n += 2) {
    const int8_t* row = s.rows + n * s.stride + column;
    const __m256i a = Load(row, columns);
    // Behind the last row it stands again, for a weight that is zero.
    const __m256i b = n + 1 < s.count ? Load(row + s.stride, columns) : a;
    const __m256i low = _mm256_unpacklo_epi16(a, b);
    const __m256i high = _mm256_unpackhi_epi16(a, b);
    Unroll<kRows>([&](auto m) EF_INLINE {
      const uint8_t* w = weights + m * s.weight_stride + n;
      const __m256i pair = _mm256_set1_epi32(w[0] | w[1] << 16);
      sums[m][0] = _mm256_add_epi32(sums[m][0], _mm256_madd_epi16(low, pair));
      sums[m][1] = _mm256_add_epi32(sums[m][1], _mm256_madd_epi16(high, pair));
    });
  }
  Unroll<kRows>([&](auto m) EF_INLINE {
    const __m256i ordered[2] = {_mm256_permute2x128_si256(sums[m][0], sums[m][1], 0x20),
                                _mm256_permute2x128_si256(sums[m][0], sums[m][1], 0x31)};
    __builtin_memcpy(s.acc + (first + m) * s.acc_stride + column, ordered,
                     static_cast<size_t>(columns) * 4);
  });
}

using ChunkFunction = void(const RowSumsArguments&, int64_t, int64_t);
constexpr ChunkFunction* kChunks[kWeightRows] = {Chunk<1>, Chunk<2>, Chunk<3>, Chunk<4>};

}  // namespace

void row_sums_x86_avx2(const RowSumsArguments& s) {
  for (int64_t column = 0; column < s.columns; column += kChunk) {
    for (int64_t m = 0; m < s.weight_rows; m += kWeightRows) {
      const int64_t rows = s.weight_rows - m < kWeightRows ? s.weight_rows - m : kWeightRows;
      kChunks[rows - 1](s, m, column);
    }
  }
}

}  // namespace edgefold
