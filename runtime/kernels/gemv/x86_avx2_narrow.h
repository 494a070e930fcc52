// SPDX-License-Identifier: Apache-2.0
// Levels of 2- and 3-bit codes, two units at a time. Included by x86_avx2_factored.h alone.
#pragma once

#include <immintrin.h>

#include "base/packed_matrix.h"
#include "base/unroll.h"
#include "base/x86_avx2_codes.h"

namespace edgefold {
namespace {

// One unit lies in each 128-bit lane: byte 4 * c + kk of vector f is code kk of column 4 * f + c.
// The 2-bit field, read so, holds vector f at bits 2 * f, and its nibbles are what a shuffle looks
// up: the levels of two vectors with one mask.
template <int kBits>
class PairLevels {
 public:
  // Levels of factors.shape[0] come out with `bias` added.
  PairLevels(const Factors& factors, int bias) {
    const __m128i shape = _mm_loadu_si128(reinterpret_cast<const __m128i*>(factors.shape[0]));
    const __m128i levels = _mm_add_epi8(shape, _mm_set1_epi8(static_cast<char>(bias)));
    // By the lower code of a nibble, and by the upper one; 3-bit codes have bit 2, 3 or both set.
    const __m128i lower = kBits == 2
                              ? _mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)
                              : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    const __m128i upper = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    table_[0] = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(levels, lower));
    table_[1] = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(levels, upper));
  }

  // Levels of the units at `units` and behind it.
  inline EF_INLINE void Of(const uint8_t* units, __m256i (&out)[4]) const {
    if constexpr (kBits == 2) {
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(units));
      Unroll<2>([&](auto i) EF_INLINE {
        const __m256i two = Field<4>(low, i * 4);
        out[2 * i] = _mm256_shuffle_epi8(table_[0], two);
        out[2 * i + 1] = _mm256_shuffle_epi8(table_[1], two);
      });
    } else {
      __m256i codes[2];
      Codes(units, codes);
      Unroll<2>([&](auto i) EF_INLINE {
        out[i] = _mm256_shuffle_epi8(table_[0], Field<4>(codes[i], 0));
        out[i + 2] = _mm256_shuffle_epi8(table_[0], Field<4>(codes[i], 4));
      });
    }
  }

 private:
  // 3-bit codes in nibbles, of vectors 0 and 2 in out[0], 1 and 3 in out[1]: their lower bits below
  // the upper one, which is bit 2 in half of the columns and bit 3 in the others.
  static inline EF_INLINE void Codes(const uint8_t* units, __m256i (&out)[2]) {
    const __m256i low = _mm256_set_m128i(Load(units + 24), Load(units));
    // The 1-bit field holds code i of vector f at byte i % 8, bit 2 * f + i / 8, and so both units'
    // fields, at the ends of this load, are wanted twice in their lane.
    const __m256d ends = _mm256_loadu_pd(reinterpret_cast<const double*>(units + 16));
    const __m256i high = _mm256_castpd_si256(_mm256_permute_pd(ends, 0b1100));
    const __m256i below = _mm256_set1_epi8(0x33);
    const __m256i above = _mm256_setr_epi32(0x44444444, 0x44444444, -0x77777778, -0x77777778,
                                            0x44444444, 0x44444444, -0x77777778, -0x77777778);
    out[0] = _mm256_or_si256(_mm256_and_si256(low, below),
                             _mm256_and_si256(_mm256_slli_epi16(high, 2), above));
    out[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 2), below),
                             _mm256_and_si256(high, above));
  }

  static inline EF_INLINE __m128i Load(const uint8_t* bytes) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  }

  __m256i table_[2];
};

// Codes of one unit in the lower lane, of the next in the upper one.
inline EF_INLINE __m256i BroadcastPair(const uint8_t* eight) {
  int64_t bytes;
  __builtin_memcpy(&bytes, eight, 8);
  const __m256i lanes = _mm256_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100,
                                          0x07060504, 0x07060504, 0x07060504, 0x07060504);
  return _mm256_shuffle_epi8(_mm256_set1_epi64x(bytes), lanes);
}

// Both lanes of each added up: those of `first` in the lower lane, of `second` in the upper one.
inline EF_INLINE __m256i AddLanes(__m256i first, __m256i second) {
  return _mm256_add_epi16(_mm256_permute2x128_si256(first, second, 0x20),
                          _mm256_permute2x128_si256(first, second, 0x31));
}

}  // namespace
}  // namespace edgefold
