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

inline __mmask64 FirstBytes(int64_t count) {
  return count >= 64 ? ~0ull : count > 0 ? (1ull << count) - 1 : 0;
}

// Registers that hold the entries of all tables, for those classes that take 1, 2 or 4 of them.
inline int TableRegisters(const PackedMatrix& matrix) {
  const int entries = matrix.tables << matrix.bits;
  return entries <= 64 ? 1 : entries <= 128 ? 2 : 4;
}

// Entries of all tables, exclusive-ored with `flip`. Bits of an index beyond them do not count.
template <int kRegisters>
class Entries {
 public:
  Entries(const PackedMatrix& matrix, int flip) {
    const int64_t size = static_cast<int64_t>(matrix.tables) << matrix.bits;
    for (int i = 0; i < kRegisters; ++i) {
      const __m512i bytes =
          _mm512_maskz_loadu_epi8(FirstBytes(size - i * 64), matrix.table + i * 64);
      bytes_[i] = _mm512_xor_si512(bytes, _mm512_set1_epi8(static_cast<char>(flip)));
    }
  }

  __m512i Look(__m512i index) const {
    if constexpr (kRegisters == 1) {
      return _mm512_permutexvar_epi8(index, bytes_[0]);
    } else if constexpr (kRegisters == 2) {
      return _mm512_permutex2var_epi8(bytes_[0], index, bytes_[1]);
    } else {
      const __m512i low = _mm512_permutex2var_epi8(bytes_[0], index, bytes_[1]);
      const __m512i high = _mm512_permutex2var_epi8(bytes_[2], index, bytes_[3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    }
  }

 private:
  __m512i bytes_[kRegisters];
};

// First entry of each code's table, for a unit's 16 columns.
template <int kBits>
inline __m512i TableOffsets(const uint8_t* selectors) {
  if constexpr (kBits == 8) return _mm512_setzero_si512();  // one table
  int64_t eight;
  __builtin_memcpy(&eight, selectors, 8);
  const __m512i columns = _mm512_set_epi32(
      0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0,
      0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0);
  const __m512i four_each = _mm512_shuffle_epi8(_mm512_set1_epi64(eight), columns);
  const __m512i numbers = _mm512_srlv_epi64(four_each, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
  return _mm512_slli_epi16(_mm512_and_si512(numbers, _mm512_set1_epi8(15)), kBits);
}

// Weights of a unit of codes.
template <int kBits, int kRegisters>
inline __m512i LoadWeights(const Entries<kRegisters>& entries, const uint8_t* unit,
                           __m512i offsets) {
  return entries.Look(_mm512_or_si512(LoadCodes<kBits>(unit), offsets));
}

}  // namespace
}  // namespace edgefold
