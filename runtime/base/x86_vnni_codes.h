// SPDX-License-Identifier: Apache-2.0
// Packed codes in AVX-512 registers, decoded by byte permutes over the whole set of tables (VBMI).
// Only files compiled for it include this; all of it is internal.
#pragma once

#include <immintrin.h>

#include "base/packed_matrix.h"

namespace edgefold {
namespace {

// Four bytes (activations of consecutive k) in every 32-bit lane.
inline __m512i Broadcast(const void* four) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, 4);
  return _mm512_set1_epi32(bytes);
}

// One field of a unit, a byte a code, in the order of the codes.
template <int kWidth>
inline __m512i LoadField(const uint8_t* field) {
  if constexpr (kWidth == 8) {
    return _mm512_loadu_si512(field);
  } else if constexpr (kWidth == 4) {
    const __m512i bytes =
        _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(field)));
    const __m512i shifts = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(15));
  } else if constexpr (kWidth == 2) {
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(field)));
    const __m512i shifts = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
    return _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(3));
  } else {
    int64_t eight;
    __builtin_memcpy(&eight, field, 8);
    const __m512i shifts = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_and_si512(_mm512_srlv_epi64(_mm512_set1_epi64(eight), shifts),
                            _mm512_set1_epi8(1));
  }
}

// The 64 codes of a unit.
template <int kBits>
inline __m512i LoadCodes(const uint8_t* unit) {
  constexpr int kFirst = kBits >= 8 ? 8 : kBits >= 4 ? 4 : kBits >= 2 ? 2 : 1;
  const __m512i low = LoadField<kFirst>(unit);
  if constexpr (kBits > kFirst) {
    const __m512i high = LoadCodes<kBits - kFirst>(unit + 8 * kFirst);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, kFirst));
  } else {
    return low;
  }
}

// All tables of a matrix, at most 256 bytes, exclusive-ored with `flip`.
template <int kBits>
class AllTables {
 public:
  AllTables(const PackedMatrix& matrix, int flip) : large_(matrix.tables << kBits > 128) {
    const int size = matrix.tables << kBits;
    for (int part = 0; part < 4; ++part) {
      const int left = size - part * 64;
      const __mmask64 mask = left >= 64 ? ~0ull : left > 0 ? (1ull << left) - 1 : 0;
      const __m512i bytes = _mm512_maskz_loadu_epi8(mask, matrix.table + part * 64);
      parts_[part] = _mm512_xor_si512(bytes, _mm512_set1_epi8(static_cast<char>(flip)));
    }
  }

  // First entry of each code's table, for the 16 columns of a group.
  static __m512i Offsets(const uint8_t* selectors) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(selectors));
    const __m128i numbers =
        _mm_and_si128(_mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi8(15));
    const __m512i each =
        _mm512_mullo_epi32(_mm512_cvtepu8_epi32(numbers), _mm512_set1_epi32(0x01010101));
    return _mm512_slli_epi16(each, kBits & 7);  // one table of 8 bits: number 0
  }

  // Weights of a unit's codes.
  __m512i Look(__m512i codes, __m512i offsets) const {
    const __m512i index = _mm512_or_si512(codes, offsets);
    const __m512i low = _mm512_permutex2var_epi8(parts_[0], index, parts_[1]);
    if (!large_) return low;
    const __m512i high = _mm512_permutex2var_epi8(parts_[2], index, parts_[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
  }

 private:
  bool large_;
  __m512i parts_[4];
};

}  // namespace
}  // namespace edgefold
