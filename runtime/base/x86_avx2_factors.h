// SPDX-License-Identifier: Apache-2.0
// Levels and factors of a factored matrix in AVX2 registers. Only files compiled for AVX2 include
// this; all of it is internal.
#pragma once

#include <immintrin.h>

#include "base/packed_matrix.h"
#include "base/unroll.h"
#include "base/x86_avx2_codes.h"

namespace edgefold {
namespace {

// A byte of each of 16 columns to the 32-bit lanes of columns 0..7 (out[0]) and 8..15 (out[1]): to
// all four bytes, or, where kWords, to two int16 (of bytes below 128).
template <bool kWords>
inline EF_INLINE void SpreadColumns(__m128i bytes, __m256i out[2]) {
  const __m256i both = _mm256_broadcastsi128_si256(bytes);
  const __m256i column = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i copies = _mm256_set1_epi32(kWords ? 0x00010001 : 0x01010101);
  const __m256i first = _mm256_mullo_epi32(column, copies);
  const __m256i index = kWords ? _mm256_or_si256(first, _mm256_set1_epi32(0x80008000)) : first;
  out[0] = _mm256_shuffle_epi8(both, index);
  out[1] = _mm256_shuffle_epi8(both, _mm256_add_epi8(index, _mm256_set1_epi8(8)));
}

// What decodes a matrix whose tables are multiples of kShapes shapes.
template <int kShapes>
struct FactoredLevels {
  __m128i factor_of;  // by table number
  __m128i second_of;  // by table number: all ones where the shape is the second
  __m256i shape[kShapes];
  __m256i second[2];  // all ones in the bytes of a column whose group takes the second shape

  // Levels come out with `bias` added.
  FactoredLevels(const Factors& factors, int bias) {
    factor_of = _mm_loadu_si128(reinterpret_cast<const __m128i*>(factors.factor));
    const __m128i number = _mm_loadu_si128(reinterpret_cast<const __m128i*>(factors.shape_of));
    second_of = _mm_cmpgt_epi8(number, _mm_setzero_si128());
    Unroll<kShapes>([&](auto s) EF_INLINE {
      const __m128i levels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(factors.shape[s]));
      shape[s] =
          _mm256_broadcastsi128_si256(_mm_add_epi8(levels, _mm_set1_epi8(static_cast<char>(bias))));
    });
  }

  // Turns to a group; `factors`: those of its columns, twice as int16.
  inline EF_INLINE void Group(const uint8_t* selectors, __m256i factors[2]) {
    const __m128i numbers = LoadSelectors(selectors);
    SpreadColumns<true>(_mm_shuffle_epi8(factor_of, numbers), factors);
    if constexpr (kShapes == 2) {
      SpreadColumns<false>(_mm_shuffle_epi8(second_of, numbers), second);
    }
  }

  // Levels of 32 codes of columns 8 * h .. 8 * h + 7.
  inline EF_INLINE __m256i Of(int h, __m256i codes) const {
    const __m256i first = _mm256_shuffle_epi8(shape[0], codes);
    if constexpr (kShapes == 1) return first;
    return _mm256_blendv_epi8(first, _mm256_shuffle_epi8(shape[kShapes - 1], codes), second[h]);
  }
};

}  // namespace
}  // namespace edgefold
