// SPDX-License-Identifier: Apache-2.0
// A weight matrix W [K, N] in EdgeFold's packed layout 1, as it lies in the model file.
//
//   W[k, n] = table[selector[k / 32, n]][code[k, n]]      int8 in [-127, 127]
//
// codes      [P][K4][8 * bits], P = ceil(N / 16) panels, K4 = ceil(K / 4) units of 16 columns x 4
// k.
//            Code p = c * 4 + kk of a unit (column c, kk = 0..3) is cut into fields whose widths w
//            are the binary digits of `bits`, widest first, lowest bits first; a field takes 8 * w
//            bytes, and byte j holds at bit w * t the field of code j + 8 * w * t.
// selectors  [P][G][8], G = ceil(K / 32): byte j = table of column j | table of column j + 8 << 4;
//            8 zero bytes in all when there is one table.
// table      [tables][1 << bits], tables << bits <= 256.
#pragma once

#include <cstdint>

namespace edgefold {

inline constexpr int kPanelColumns = 16;
inline constexpr int kUnitDepth = 4;    // consecutive k in a unit
inline constexpr int kUnitCodes = 64;   // codes in a unit = bytes of a decoded unit
inline constexpr int kGroupDepth = 32;  // consecutive k that share a column's table
inline constexpr int kGroupUnits = 8;
inline constexpr int kMaxTableBytes = 256;
inline constexpr int kMaxTables = 16;  // a selector is a nibble
inline constexpr int kMaxShapeLevel = 32;
inline constexpr int64_t kMaxIntegerDepth = 65536;  // 255 * 127 * k fits int32

// Tables that share what a fast product needs: table[t][c] == factor[t] * shape[shape_of[t]][c].
struct Factors {
  int32_t shapes;  // 1 or 2; 0: the tables are of another kind, or wider than 4 bits
  int32_t top;     // largest |shape| entry, at most kMaxShapeLevel
  int8_t shape[2][16];
  uint8_t shape_of[kMaxTables];
  int8_t factor[kMaxTables];  // never negative
};

struct PackedMatrix {
  const uint8_t* codes;
  const uint8_t* selectors;
  const int8_t* table;
  int64_t k;
  int64_t n;
  int32_t bits;
  int32_t tables;

  // Where table[t][c] == (max(c, lowest) - zero) * multiplier[t] for all t, c (methods rtn and
  // shift, whose spare code 0 repeats the lowest level).
  bool linear;
  int32_t lowest;
  int32_t zero;
  int8_t multiplier[kMaxTables];
  Factors factors;
  // Where table[t][last - c] == -table[t][c] and the upper half is not negative (method shift-lut).
  bool symmetric;

  int64_t Panels() const { return (n + kPanelColumns - 1) / kPanelColumns; }
  int64_t Units() const { return (k + kUnitDepth - 1) / kUnitDepth; }
  int64_t Groups() const { return (k + kGroupDepth - 1) / kGroupDepth; }
  int64_t UnitBytes() const { return 8 * bits; }
  const uint8_t* PanelCodes(int64_t panel) const { return codes + panel * Units() * UnitBytes(); }
  // The 8 selector bytes of one panel and group.
  const uint8_t* GroupSelectors(int64_t panel, int64_t group) const {
    return tables == 1 ? selectors : selectors + (panel * Groups() + group) * 8;
  }
  const int8_t* Table(int number) const { return table + (number << bits); }
};

// Table number of a panel's column (0..15), from the 8 selector bytes of a group.
inline int SelectorOf(const uint8_t* selectors, int column) {
  return selectors[column & 7] >> (column >> 3) * 4 & 15;
}

// Fills linear, lowest, zero, multiplier, factors and symmetric from the table.
void DetectStructure(PackedMatrix* matrix);

// True when every selector names a table that exists. Reads all selectors.
bool SelectorsValid(const PackedMatrix& matrix);

// Code of (k, column), by the definition above. Slow; for references and single columns.
int CodeAt(const PackedMatrix& matrix, int64_t k, int64_t column);

// Weight W[k, column], by the definition above.
inline int8_t WeightAt(const PackedMatrix& matrix, int64_t k, int64_t column) {
  const int64_t panel = column / kPanelColumns;
  const uint8_t* selectors = matrix.GroupSelectors(panel, k / kGroupDepth);
  return matrix.Table(SelectorOf(selectors, column % kPanelColumns))[CodeAt(matrix, k, column)];
}

}  // namespace edgefold
