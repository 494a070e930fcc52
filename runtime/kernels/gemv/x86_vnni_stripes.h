// SPDX-License-Identifier: Apache-2.0
// Codes of several units decoded at once. Fields of 2 and 4 bits hold the first columns of a unit
// in their lowest bits and further ones above, so consecutive units, read as one register and
// shifted, are stripes: a few columns of each unit, whose activations lie in the same order. Sums
// of a column, one a unit of the step, meet at the end. Included by x86_vnni.cc alone.
//
//   kUnits                     units of a step, and stripes that they decode to
//   Group(selectors)           the tables of a group's columns
//   Weights<kAll>(codes, left, w)  stripes of a step; of `left` units unless kAll
//   Operand(x, stripe)         the activations that a stripe meets, from those of the step's units
//   Columns(sums)              the sums of 16 columns, from those of the stripes
#pragma once

#include "base/unroll.h"
#include "base/x86_vnni_codes.h"

namespace edgefold {
namespace {

// kLow bits of `low`, the others of `high`, in every byte.
template <int kLow>
inline __m512i Join(__m512i low, __m512i high) {
  return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8((1 << kLow) - 1), high, 0xe2);
}

// A group's 8 bytes of selectors, each four times.
inline __m512i FourTimes(const uint8_t* selectors, __m512i order) {
  int64_t eight;
  __builtin_memcpy(&eight, selectors, 8);
  return _mm512_shuffle_epi8(_mm512_set1_epi64(eight), order);
}

// 4 bits, two units: columns 0 to 7 of both in the low nibbles, 8 to 15 in the high ones.
template <int kRegisters>
class NibbleStripes {
 public:
  static constexpr int kUnits = 2;

  NibbleStripes(const PackedMatrix& matrix, int flip) : entries_(matrix, flip) {}

  void Group(const uint8_t* selectors) {
    high_ = FourTimes(
        selectors, _mm512_set_epi32(0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303,
                                    0x02020202, 0x01010101, 0, 0x07070707, 0x06060606, 0x05050505,
                                    0x04040404, 0x03030303, 0x02020202, 0x01010101, 0));
    low_ = _mm512_slli_epi16(high_, 4);
  }

  template <bool kAll>
  void Weights(const uint8_t* codes, int64_t left, __m512i (&w)[kUnits]) const {
    __m512i bytes =
        kAll ? _mm512_loadu_si512(codes) : _mm512_maskz_loadu_epi8(FirstBytes(left * 32), codes);
    asm("" : "+v"(bytes));  // or it is loaded twice
    w[0] = entries_.Look(Join<4>(bytes, low_));
    w[1] = entries_.Look(Join<4>(_mm512_srli_epi16(bytes, 4), high_));
  }

  static __m512i Operand(const uint8_t* x, int) {
    int32_t second;
    __builtin_memcpy(&second, x + kUnitDepth, 4);
    return _mm512_mask_set1_epi32(Broadcast(x), 0xff00, second);
  }

  static __m512i Columns(const __m512i (&sums)[kUnits]) {
    return _mm512_add_epi32(_mm512_shuffle_i64x2(sums[0], sums[1], 0x44),
                            _mm512_shuffle_i64x2(sums[0], sums[1], 0xee));
  }

 private:
  Entries<kRegisters> entries_;
  __m512i low_, high_;  // table numbers of the stripes, above the bits of a code
};

// What 2 and 3 bits share: four units, a lane of 16 bytes each; stripe t holds columns 4t to 4t
// + 3.
template <int kBits, int kRegisters>
class LaneStripes {
 public:
  static constexpr int kUnits = 4;

  LaneStripes(const PackedMatrix& matrix, int flip) : entries_(matrix, flip) {}

  void Group(const uint8_t* selectors) {
    const __m128i first = _mm_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303);
    Unroll<2>([&](auto i) EF_INLINE {
      const __m128i lane = _mm_add_epi8(first, _mm_set1_epi8(4 * i));
      const __m512i numbers = FourTimes(selectors, _mm512_broadcast_i32x4(lane));
      tables_[i] = _mm512_slli_epi16(numbers, kBits);
      tables_[2 + i] = _mm512_srli_epi16(numbers, 4 - kBits);
    });
  }

  template <bool kAll>
  void Weights(const uint8_t* codes, int64_t left, __m512i (&w)[kUnits]) const {
    const int64_t bytes = kAll ? 32 * kBits : left * 8 * kBits;
    __m512i even, odd;  // codes of stripes 0 and 2, 1 and 3, in the low and the high nibbles
    if constexpr (kBits == 2) {
      even = kAll ? _mm512_loadu_si512(codes) : _mm512_maskz_loadu_epi8(FirstBytes(bytes), codes);
      odd = _mm512_srli_epi16(even, 2);
    } else {
      const __m512i first = _mm512_maskz_loadu_epi8(FirstBytes(bytes), codes);
      const __m512i rest = _mm512_maskz_loadu_epi8(FirstBytes(bytes - 64), codes + 64);
      // A unit is two quadwords of the wide field and one of the narrow one, whose odd bits are
      // those of the second eight bytes.
      const __m512i two =
          _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 1, 3, 4, 6, 7, 9, 10), rest);
      const __m512i narrow =
          _mm512_permutex2var_epi64(first, _mm512_setr_epi64(2, 2, 5, 5, 8, 8, 11, 11), rest);
      const __m512i one = _mm512_srlv_epi64(narrow, _mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1));
      const __m512i wide_bits = _mm512_set1_epi8(0x33);
      even = _mm512_ternarylogic_epi32(wide_bits, two, _mm512_slli_epi16(one, 2), 0xca);
      odd = _mm512_ternarylogic_epi32(wide_bits, _mm512_srli_epi16(two, 2), one, 0xca);
    }
    w[0] = entries_.Look(Join<kBits>(even, tables_[0]));
    w[1] = entries_.Look(Join<kBits>(odd, tables_[1]));
    w[2] = entries_.Look(Join<kBits>(_mm512_srli_epi16(even, 4), tables_[2]));
    w[3] = entries_.Look(Join<kBits>(_mm512_srli_epi16(odd, 4), tables_[3]));
  }

  static __m512i Operand(const uint8_t* x, int) {
    const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
        _mm512_castsi128_si512(four));
  }

  static __m512i Columns(const __m512i (&sums)[kUnits]) {
    const __m512i first = _mm512_add_epi32(_mm512_shuffle_i64x2(sums[0], sums[1], 0x44),
                                           _mm512_shuffle_i64x2(sums[0], sums[1], 0xee));
    const __m512i second = _mm512_add_epi32(_mm512_shuffle_i64x2(sums[2], sums[3], 0x44),
                                            _mm512_shuffle_i64x2(sums[2], sums[3], 0xee));
    return _mm512_add_epi32(_mm512_shuffle_i64x2(first, second, 0x88),
                            _mm512_shuffle_i64x2(first, second, 0xdd));
  }

 private:
  Entries<kRegisters> entries_;
  __m512i tables_[kUnits];
};

// Any bits: two units, a stripe each.
template <int kBits, int kRegisters>
class UnitStripes {
 public:
  static constexpr int kUnits = 2;

  UnitStripes(const PackedMatrix& matrix, int flip) : entries_(matrix, flip) {}

  void Group(const uint8_t* selectors) { offsets_ = TableOffsets<kBits>(selectors); }

  template <bool kAll>
  void Weights(const uint8_t* codes, int64_t left, __m512i (&w)[kUnits]) const {
    w[0] = LoadWeights<kBits>(entries_, codes, offsets_);
    w[1] = kAll || left > 1 ? LoadWeights<kBits>(entries_, codes + 8 * kBits, offsets_) : w[0];
  }

  static __m512i Operand(const uint8_t* x, int stripe) {
    return Broadcast(x + stripe * kUnitDepth);
  }

  static __m512i Columns(const __m512i (&sums)[kUnits]) {
    return _mm512_add_epi32(sums[0], sums[1]);
  }

 private:
  Entries<kRegisters> entries_;
  __m512i offsets_;
};

}  // namespace
}  // namespace edgefold
