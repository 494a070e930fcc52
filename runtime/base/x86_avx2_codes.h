// SPDX-License-Identifier: Apache-2.0
// Packed codes in AVX2 registers. Only files compiled for AVX2 include this; all of it is internal.
#pragma once

#include <immintrin.h>

#include "base/packed_matrix.h"
#include "base/unroll.h"

namespace edgefold {
namespace {

inline void StoreBytes(int8_t* out, __m256i bytes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
}

// Bits [at, at + width) of every byte.
template <int kWidth>
inline __m256i Field(__m256i bytes, int at) {
  const __m256i mask = _mm256_set1_epi8((1 << kWidth) - 1);
  return _mm256_and_si256(_mm256_srli_epi16(bytes, at), mask);
}

// One field of a unit for columns 0..7 (out[0]) and 8..15 (out[1]); a byte a code.
template <int kWidth>
inline void LoadField(const uint8_t* field, __m256i out[2]) {
  if constexpr (kWidth == 8) {
    out[0] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(field));
    out[1] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(field + 32));
  } else if constexpr (kWidth == 4) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(field));
    out[0] = Field<4>(bytes, 0);
    out[1] = Field<4>(bytes, 4);
  } else if constexpr (kWidth == 2) {
    // Byte j holds codes j, j + 16, j + 32, j + 48.
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(field));
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 2), bytes);
    out[0] = Field<2>(both, 0);
    out[1] = Field<2>(both, 4);
  } else {
    // Byte j of eight holds codes j, j + 8, ..., j + 56.
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(field));
    const __m128i low = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 1));
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(low, 2), low);
    out[0] = Field<1>(both, 0);
    out[1] = Field<1>(both, 4);
  }
}

// The 64 codes of a unit: columns 0..7 in out[0], 8..15 in out[1].
template <int kBits>
inline void LoadCodes(const uint8_t* unit, __m256i out[2]) {
  constexpr int kFirst = kBits >= 8 ? 8 : kBits >= 4 ? 4 : kBits >= 2 ? 2 : 1;
  LoadField<kFirst>(unit, out);
  if constexpr (kBits > kFirst) {
    __m256i high[2];
    LoadCodes<kBits - kFirst>(unit + 8 * kFirst, high);
    out[0] = _mm256_or_si256(out[0], _mm256_slli_epi16(high[0], kFirst));
    out[1] = _mm256_or_si256(out[1], _mm256_slli_epi16(high[1], kFirst));
  }
}

// Table numbers of a group's 16 columns, a byte each.
inline __m128i LoadSelectors(const uint8_t* selectors) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(selectors));
  const __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
  return _mm_and_si128(both, _mm_set1_epi8(15));
}

// Multipliers of a linear matrix, per column twice as int16: columns 0..7 and 8..15.
inline void LoadMultipliers(__m128i multipliers, const uint8_t* selectors, __m256i out[2]) {
  const __m128i bytes = _mm_shuffle_epi8(multipliers, LoadSelectors(selectors));
  const __m128i low = _mm_cvtepi8_epi16(bytes);
  const __m128i high = _mm_cvtepi8_epi16(_mm_srli_si128(bytes, 8));
  out[0] = _mm256_set_m128i(_mm_unpackhi_epi16(low, low), _mm_unpacklo_epi16(low, low));
  out[1] = _mm256_set_m128i(_mm_unpackhi_epi16(high, high), _mm_unpacklo_epi16(high, high));
}

// Byte tables of a group's 16 columns, cut into slices of 16 entries.
template <int kBits>
struct ColumnTables {
  static constexpr int kSlices = kBits > 4 ? 1 << (kBits - 4) : 1;
  // [columns 0..7, 8..15][slice][j]: column j in the low lane, j + 4 in the high one.
  __m256i table[2][kSlices][4];

  static __m128i Slice(const int8_t* entries, int slice) {
    if constexpr (kBits < 4) {
      alignas(16) int8_t padded[16] = {};
      __builtin_memcpy(padded, entries, 1 << kBits);
      return _mm_load_si128(reinterpret_cast<const __m128i*>(padded));
    }
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + slice * 16));
  }

  inline void Load(const PackedMatrix& matrix, const uint8_t* selectors) {
    uint64_t pairs;  // in integer registers: the vector pipes are the scarce ones
    __builtin_memcpy(&pairs, selectors, 8);
    Unroll<2>([&](auto h) EF_INLINE {
      Unroll<4>([&](auto j) EF_INLINE {
        const int8_t* low = matrix.table + ((pairs >> (8 * j + 4 * h) & 15) << kBits);
        const int8_t* high = matrix.table + ((pairs >> (8 * j + 32 + 4 * h) & 15) << kBits);
        Unroll<kSlices>([&](auto s) EF_INLINE {
          table[h][s][j] = _mm256_set_m128i(Slice(high, s), Slice(low, s));
        });
      });
    });
  }

  inline __m256i LookSlice(int h, int s, __m256i index) const {
    const __m256i* t = table[h][s];
    const __m256i even = _mm256_blend_epi32(_mm256_shuffle_epi8(t[0], index),
                                            _mm256_shuffle_epi8(t[1], index), 0x22);
    const __m256i odd = _mm256_blend_epi32(_mm256_shuffle_epi8(t[2], index),
                                           _mm256_shuffle_epi8(t[3], index), 0x88);
    return _mm256_blend_epi32(even, odd, 0xcc);
  }

  // Weights of 32 codes of columns 8 * h .. 8 * h + 7.
  inline __m256i Look(int h, __m256i codes) const {
    if constexpr (kSlices == 1) return LookSlice(h, 0, codes);
    const __m256i low = _mm256_and_si256(codes, _mm256_set1_epi8(15));
    const __m256i number = _mm256_andnot_si256(_mm256_set1_epi8(15), codes);
    __m256i result = LookSlice(h, 0, low);
    for (int s = 1; s < kSlices; ++s) {
      const __m256i here = _mm256_cmpeq_epi8(number, _mm256_set1_epi8(static_cast<char>(s * 16)));
      result = _mm256_blendv_epi8(result, LookSlice(h, s, low), here);
    }
    return result;
  }
};

}  // namespace
}  // namespace edgefold
