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

// Two groups side by side, or the halves of the last, as in arranged rows (kernels/arrange): the
// lower 16 bits of a column's lane belong to the first of them, the upper ones to the second.
template <int kBits, int kShapes>
class BlockLevels {
 public:
  static constexpr int kUnitBytes = 8 * kBits;

  BlockLevels(const PackedMatrix& matrix, int bias)
      : matrix_(matrix),
        selector_step_(matrix.tables == 1 ? 0 : 8),
        levels_{{matrix.factors, bias}, {matrix.factors, bias}} {}

  // Turns to the first block of a panel.
  void Panel(int64_t panel) {
    codes_ = matrix_.PanelCodes(panel);
    selectors_ = matrix_.GroupSelectors(panel, 0);
    left_ = matrix_.Units();
  }

  // Turns to the next block of `units` units: its factors, and where its codes are, of matrices
  // that end inside the block in `padded`. Beyond K levels only have to be something.
  inline EF_INLINE const uint8_t* Next(int64_t units, uint8_t (&padded)[16 * kUnitBytes],
                                       __m256i factors[2]) {
    const uint8_t* first = selectors_;
    const uint8_t* second = left_ > kGroupUnits ? first + selector_step_ : first;
    Factors(first, second, factors);
    if constexpr (kShapes == 2) {
      __m256i unused[2];
      levels_[0].Group(first, unused);
      levels_[1].Group(second, unused);
    }
    const uint8_t* codes = codes_;
    if (left_ < units) {
      __builtin_memset(padded, 0, sizeof padded);
      __builtin_memcpy(padded, codes, static_cast<size_t>(left_ * kUnitBytes));
      codes = padded;
    }
    codes_ += 2 * kGroupUnits * kUnitBytes;
    selectors_ += 2 * selector_step_;
    left_ -= 2 * kGroupUnits;
    return codes;
  }

  // Levels of units 2 * u and 2 * u + 1 of a block, from the codes of unit u of either side.
  inline EF_INLINE void Units(const uint8_t* first, const uint8_t* second,
                              __m256i (&out)[2][2]) const {
    if constexpr (kBits == 4 && kShapes == 1) {  // both nibbles of a byte take the same way
      // Loading two bytes off saves shifting: the second side has units before it, the first
      // after.
      const __m256i bytes[2] = {_mm256_blend_epi16(LoadBytes(first), LoadBytes(second - 2), 0xaa),
                                _mm256_blend_epi16(LoadBytes(first + 2), LoadBytes(second), 0xaa)};
      Unroll<2>([&](auto i) EF_INLINE {
        out[i][0] = levels_[0].Of(0, Field<4>(bytes[i], 0));
        out[i][1] = levels_[0].Of(1, Field<4>(bytes[i], 4));
      });
      return;
    }
    __m256i codes[2][2];
    LoadCodes<kBits>(first, codes[0]);
    LoadCodes<kBits>(second, codes[1]);
    Unroll<2>([&](auto h) EF_INLINE {
      __m256i both[2];
      Interleave(levels_[0].Of(h, codes[0][h]), levels_[1].Of(h, codes[1][h]), both);
      out[0][h] = both[0];
      out[1][h] = both[1];
    });
  }

 private:
  static inline EF_INLINE __m256i LoadBytes(const uint8_t* bytes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  }

  static inline EF_INLINE void Interleave(__m256i first, __m256i second, __m256i out[2]) {
    out[0] = _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
    out[1] = _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xaa);
  }

  inline EF_INLINE void Factors(const uint8_t* first, const uint8_t* second,
                                __m256i factors[2]) const {
    const __m128i numbers =
        _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(first)),
                          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second)));
    const __m128i low = _mm_and_si128(numbers, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(numbers, 4), _mm_set1_epi8(15));
    factors[0] = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(levels_[0].factor_of, low));
    factors[1] = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(levels_[0].factor_of, high));
  }

  const PackedMatrix& matrix_;
  int64_t selector_step_;
  const uint8_t* codes_;               // of the next block
  const uint8_t* selectors_;           // of its first group
  int64_t left_;                       // units from there on
  FactoredLevels<kShapes> levels_[2];  // of either group; one shape is that of both
};

}  // namespace
}  // namespace edgefold
