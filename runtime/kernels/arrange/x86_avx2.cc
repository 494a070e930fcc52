// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/arrange/arrange.h"

namespace edgefold {
namespace {

// Sums of each run's 16-bit pairs, in the 32-bit lanes from 0 on: eight units in each of `first`
// and `second`.
inline __m128i SumsOfRuns(__m256i first, __m256i second, int run_units) {
  const __m128i parts[4] = {_mm256_castsi256_si128(first), _mm256_extracti128_si256(first, 1),
                            _mm256_castsi256_si128(second), _mm256_extracti128_si256(second, 1)};
  // Transposed and added: lane i is the sum of four units of part i.
  const __m128i a =
      _mm_add_epi16(_mm_unpacklo_epi32(parts[0], parts[1]), _mm_unpackhi_epi32(parts[0], parts[1]));
  const __m128i b =
      _mm_add_epi16(_mm_unpacklo_epi32(parts[2], parts[3]), _mm_unpackhi_epi32(parts[2], parts[3]));
  const __m128i fours = _mm_add_epi16(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
  if (run_units == 4) return fours;
  const __m128i eights = _mm_add_epi16(fours, _mm_srli_epi64(fours, 32));
  if (run_units == 8) return _mm_shuffle_epi32(eights, _MM_SHUFFLE(3, 1, 2, 0));
  return _mm_add_epi16(eights, _mm_srli_si128(eights, 8));
}

// Where int8 rows have levels up to 32, runs of four units and more suffice.
void StoreOffsets(__m256i first, __m256i second, const ArrangedRows& out, int64_t runs,
                  int32_t* offsets) {
  const __m256i ones = _mm256_set1_epi8(1);
  const __m128i sums = SumsOfRuns(_mm256_maddubs_epi16(ones, first),
                                  _mm256_maddubs_epi16(ones, second), out.run_units);
  const __m128i scaled = _mm_mullo_epi16(sums, _mm_set1_epi16(static_cast<int16_t>(-out.bias)));
  if (runs == 4) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(offsets), scaled);
  } else if (runs == 2) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(offsets), scaled);
  } else {
    _mm_storeu_si32(offsets, scaled);
  }
}

// Blocks of two groups.
void ArrangePairs(const uint8_t* row, int64_t m, int64_t blocks, const ArrangedRows& out) {
  for (int64_t b = 0; b < blocks; ++b, row += kBlockDepth) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + kGroupDepth));
    const __m256i low = _mm256_unpacklo_epi16(first, second);
    const __m256i high = _mm256_unpackhi_epi16(first, second);
    const __m256i codes[2] = {_mm256_permute2x128_si256(low, high, 0x20),
                              _mm256_permute2x128_si256(low, high, 0x31)};
    __m256i* to = reinterpret_cast<__m256i*>(out.Codes(b) + m * kBlockDepth);
    _mm256_store_si256(to, codes[0]);
    _mm256_store_si256(to + 1, codes[1]);
    if (out.is_unsigned) continue;
    const int64_t runs = out.Runs(b);
    StoreOffsets(codes[0], codes[1], out, runs, out.Offsets(b) + m * runs);
  }
}

// The last block, of one group.
void ArrangeHalves(const uint8_t* row, int64_t m, int64_t b, const ArrangedRows& out) {
  const __m128i* group = reinterpret_cast<const __m128i*>(row + b * kBlockDepth);
  const __m128i first = _mm_loadu_si128(group);
  const __m128i second = _mm_loadu_si128(group + 1);
  const __m256i codes =
      _mm256_set_m128i(_mm_unpackhi_epi16(first, second), _mm_unpacklo_epi16(first, second));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out.Codes(b) + m * kGroupDepth), codes);
  if (out.is_unsigned) return;
  const int64_t runs = out.Runs(b);
  StoreOffsets(codes, _mm256_setzero_si256(), out, runs, out.Offsets(b) + m * runs);
}

}  // namespace

void arrange_x86_avx2(const Activations& a, int64_t first, const ArrangedRows& out) {
  const int64_t pairs = out.groups / kBlockGroups;
  for (int64_t m = 0; m < a.rows; ++m) {
    ArrangePairs(a.Row(m), first + m, pairs, out);
    if (pairs < out.Blocks()) ArrangeHalves(a.Row(m), first + m, pairs, out);
  }
}

}  // namespace edgefold
