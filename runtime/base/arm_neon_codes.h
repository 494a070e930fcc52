// SPDX-License-Identifier: Apache-2.0
// Packed codes in NEON registers. Included by arm_*.cc only; everything here is private to the file
// that includes it, since files differ in their compile flags.
#pragma once

#include <arm_neon.h>

#include "base/packed_matrix.h"

namespace edgefold {
namespace {

// One field of a unit, width w at bit `position` of the codes, added to codes[0..3].
template <int kWidth>
inline const uint8_t* AddField(const uint8_t* field, int position, uint8x16_t codes[4]) {
  const uint8x16_t mask = vdupq_n_u8((1 << kWidth) - 1);
  const int8x16_t up = vdupq_n_s8(static_cast<int8_t>(position));
  for (int q = 0; q < 4; ++q) {
    uint8x16_t bytes;
    int turn;  // code 16 * q stands at bit kWidth * turn
    if constexpr (kWidth == 1) {
      // Eight bytes: the register's halves lie at neighbouring bits.
      const uint8x8_t eight = vld1_u8(field);
      const uint8x8_t low = vshl_u8(eight, vdup_n_s8(static_cast<int8_t>(-2 * q)));
      const uint8x8_t high = vshl_u8(eight, vdup_n_s8(static_cast<int8_t>(-2 * q - 1)));
      bytes = vcombine_u8(low, high);
      turn = 0;
    } else {
      bytes = vld1q_u8(field + 16 * q % (8 * kWidth));
      turn = 16 * q / (8 * kWidth);
    }
    const uint8x16_t down = vshlq_u8(bytes, vdupq_n_s8(static_cast<int8_t>(-kWidth * turn)));
    codes[q] = vorrq_u8(codes[q], vshlq_u8(vandq_u8(down, mask), up));
  }
  return field + 8 * kWidth;
}

// The 64 codes of a unit; register q holds columns 4 * q ..., four k each.
template <int kBits>
inline void LoadCodes(const uint8_t* unit, uint8x16_t codes[4]) {
  for (int q = 0; q < 4; ++q) codes[q] = vdupq_n_u8(0);
  int position = 0;
  if constexpr ((kBits & 8) != 0) {
    for (int q = 0; q < 4; ++q) codes[q] = vld1q_u8(unit + 16 * q);
  }
  if constexpr ((kBits & 4) != 0) {
    unit = AddField<4>(unit, position, codes);
    position += 4;
  }
  if constexpr ((kBits & 2) != 0) {
    unit = AddField<2>(unit, position, codes);
    position += 2;
  }
  if constexpr ((kBits & 1) != 0) AddField<1>(unit, position, codes);
}

// All tables of a matrix, looked up at table number << bits | code.
class TableBytes {
 public:
  explicit TableBytes(const PackedMatrix& matrix)
      : banks_((matrix.tables << matrix.bits) + 63 >> 6) {
    uint8_t bytes[kMaxTableBytes] = {};
    for (int i = 0; i < matrix.tables << matrix.bits; ++i) {
      bytes[i] = static_cast<uint8_t>(matrix.table[i]);
    }
    for (int b = 0; b < 4; ++b) table_[b] = vld1q_u8_x4(bytes + 64 * b);
  }

  int8x16_t Look(uint8x16_t index) const {
    uint8x16_t value = vqtbl4q_u8(table_[0], index);
    for (int b = 1; b < banks_; ++b) {
      index = vsubq_u8(index, vdupq_n_u8(64));
      value = vqtbx4q_u8(value, table_[b], index);
    }
    return vreinterpretq_s8_u8(value);
  }

 private:
  uint8x16x4_t table_[4];
  int banks_;
};

// Selectors of a group, shifted to where a table number stands in an index; one register a quarter.
inline void LoadSelectors(const uint8_t* selectors, int bits, uint8x16_t out[4]) {
  const uint8x8_t eight = vld1_u8(selectors);
  const uint8x16_t numbers = vcombine_u8(vand_u8(eight, vdup_n_u8(15)), vshr_n_u8(eight, 4));
  const uint8x16_t shifted = vshlq_u8(numbers, vdupq_n_s8(static_cast<int8_t>(bits)));
  const uint8x16_t four = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  for (int q = 0; q < 4; ++q) {
    out[q] = vqtbl1q_u8(shifted, vaddq_u8(four, vdupq_n_u8(static_cast<uint8_t>(4 * q))));
  }
}

template <int kBits>
inline void DecodeUnits(const PackedMatrix& matrix, const TableBytes& tables, int64_t panel,
                        int64_t first_unit, int64_t units, int8_t* out) {
  const uint8_t* packed = matrix.PanelCodes(panel) + first_unit * 8 * kBits;
  uint8x16_t selectors[4];
  for (int64_t u = 0; u < units; ++u) {
    if (u % kGroupUnits == 0) {
      LoadSelectors(matrix.GroupSelectors(panel, (first_unit + u) / kGroupUnits), kBits, selectors);
    }
    uint8x16_t codes[4];
    LoadCodes<kBits>(packed + u * 8 * kBits, codes);
    for (int q = 0; q < 4; ++q) {
      vst1q_s8(out + u * kUnitCodes + 16 * q, tables.Look(vorrq_u8(codes[q], selectors[q])));
    }
  }
}

// int8 weights in N16K4 order of `units` units from first_unit (a multiple of 8) on.
inline void Decode(const PackedMatrix& matrix, const TableBytes& tables, int64_t panel,
                   int64_t first_unit, int64_t units, int8_t* out) {
  using Function = void(const PackedMatrix&, const TableBytes&, int64_t, int64_t, int64_t, int8_t*);
  static constexpr Function* kByBits[] = {DecodeUnits<2>, DecodeUnits<3>, DecodeUnits<4>,
                                          DecodeUnits<5>, DecodeUnits<6>, DecodeUnits<7>,
                                          DecodeUnits<8>};
  kByBits[matrix.bits - 2](matrix, tables, panel, first_unit, units, out);
}

}  // namespace
}  // namespace edgefold
