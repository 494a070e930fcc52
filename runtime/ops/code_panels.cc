// SPDX-License-Identifier: Apache-2.0
#include "ops/code_panels.h"

#include <algorithm>
#include <cstring>

#include "base/packed_matrix.h"
#include "base/rounding.h"

namespace edgefold {
namespace {

typedef int8_t Bytes __attribute__((vector_size(16)));
typedef int16_t Pairs __attribute__((vector_size(16)));

constexpr int8_t kZeros[kPanelColumns] = {};

// Each row is a column of the operand: four of its codes at a time.
void PackTransposed(const int8_t* codes, int64_t rows, int64_t columns, int8_t* panels) {
  const int64_t whole = columns / kUnitDepth;
  const int64_t units = CeilDiv(columns, kUnitDepth);
  for (int64_t k = 0; k < RoundUp(rows, kPanelColumns); ++k) {
    int8_t* out =
        panels + (k / kPanelColumns * units * kPanelColumns + k % kPanelColumns) * kUnitDepth;
    const bool there = k < rows;
    const int8_t* row = codes + (there ? k : 0) * columns;
    for (int64_t u = 0; u < whole; ++u, out += kUnitCodes) {
      std::memcpy(out, there ? row + u * kUnitDepth : kZeros, kUnitDepth);
    }
    if (whole == units) continue;
    int8_t last[kUnitDepth] = {};
    for (int64_t n = whole * kUnitDepth; there && n < columns; ++n) last[n % kUnitDepth] = row[n];
    std::memcpy(out, last, kUnitDepth);
  }
}

inline Bytes Load(const int8_t* row) {
  Bytes bytes;
  std::memcpy(&bytes, row, sizeof bytes);
  return bytes;
}

// Sixteen columns of four rows as a unit.
inline void Interleave(const int8_t* const (&rows)[kUnitDepth], int8_t* unit) {
  const Bytes a = Load(rows[0]), b = Load(rows[1]), c = Load(rows[2]), d = Load(rows[3]);
#define EF_LOW(x, y) \
  __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define EF_HIGH(x, y) \
  __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
  const Pairs ab[2] = {(Pairs)EF_LOW(a, b), (Pairs)EF_HIGH(a, b)};
  const Pairs cd[2] = {(Pairs)EF_LOW(c, d), (Pairs)EF_HIGH(c, d)};
#undef EF_LOW
#undef EF_HIGH
  for (int half = 0; half < 2; ++half) {
    const Pairs low = __builtin_shufflevector(ab[half], cd[half], 0, 8, 1, 9, 2, 10, 3, 11);
    const Pairs high = __builtin_shufflevector(ab[half], cd[half], 4, 12, 5, 13, 6, 14, 7, 15);
    std::memcpy(unit + half * 32, &low, sizeof low);
    std::memcpy(unit + half * 32 + 16, &high, sizeof high);
  }
}

// Four rows share a unit.
void PackDeep(const int8_t* codes, int64_t rows, int64_t columns, int8_t* panels) {
  const int64_t units = CeilDiv(rows, kUnitDepth);
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t first = 0; first < columns; first += kPanelColumns) {
      const int64_t width = std::min<int64_t>(columns - first, kPanelColumns);
      int8_t padded[kUnitDepth][kPanelColumns] = {};
      const int8_t* four[kUnitDepth];
      for (int64_t i = 0; i < kUnitDepth; ++i) {
        const int64_t k = u * kUnitDepth + i;
        four[i] = k < rows ? codes + k * columns + first : kZeros;
        if (width == kPanelColumns || k >= rows) continue;
        std::memcpy(padded[i], four[i], static_cast<size_t>(width));
        four[i] = padded[i];
      }
      Interleave(four, panels + (first / kPanelColumns * units + u) * kUnitCodes);
    }
  }
}

}  // namespace

void PackCodes(const int8_t* codes, int64_t rows, int64_t columns, bool transposed,
               int8_t* panels) {
  transposed ? PackTransposed(codes, rows, columns, panels)
             : PackDeep(codes, rows, columns, panels);
}

}  // namespace edgefold
