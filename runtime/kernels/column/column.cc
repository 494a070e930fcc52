// SPDX-License-Identifier: Apache-2.0
#include "kernels/column/column.h"

#include <algorithm>

namespace edgefold {
namespace {

// A unit's four codes of a column: they stand in adjacent bytes of each field, at one bit offset.
// `first` is the number of the first within the unit.
template <int kBits>
inline void UnitCodes(const uint8_t* unit, int first, int position, int (&codes)[kUnitDepth]) {
  constexpr int kWidth = kBits >= 8 ? 8 : kBits >= 4 ? 4 : kBits >= 2 ? 2 : 1;
  constexpr int kBytes = 8 * kWidth;
  const int shift = first / kBytes * kWidth;
  const uint8_t* four = unit + first % kBytes;
  for (int kk = 0; kk < kUnitDepth; ++kk) {
    codes[kk] |= (four[kk] >> shift & ((1 << kWidth) - 1)) << position;
  }
  if constexpr (kBits > kWidth) {
    UnitCodes<kBits - kWidth>(unit + kBytes, first, position + kWidth, codes);
  }
}

template <int kBits>
void Decode(const PackedMatrix& matrix, int64_t column, float scale, float* out) {
  const int64_t panel = column / kPanelColumns;
  const int in_panel = static_cast<int>(column % kPanelColumns);
  const uint8_t* unit = matrix.PanelCodes(panel);
  for (int64_t group = 0; group < matrix.k; group += kGroupDepth) {
    const uint8_t* selectors = matrix.GroupSelectors(panel, group / kGroupDepth);
    const int8_t* table = matrix.Table(SelectorOf(selectors, in_panel));
    const int64_t end = std::min<int64_t>(group + kGroupDepth, matrix.k);
    for (int64_t k = group; k < end; k += kUnitDepth, unit += 8 * kBits) {
      int codes[kUnitDepth] = {};
      UnitCodes<kBits>(unit, in_panel * kUnitDepth, 0, codes);
      const int64_t count = std::min<int64_t>(kUnitDepth, end - k);
      for (int64_t kk = 0; kk < count; ++kk) {
        out[k + kk] = static_cast<float>(table[codes[kk]]) * scale;
      }
    }
  }
}

}  // namespace

void DecodeColumn(const PackedMatrix& matrix, int64_t column, float scale, float* out) {
  using Function = void(const PackedMatrix&, int64_t, float, float*);
  static constexpr Function* kByBits[] = {Decode<2>, Decode<3>, Decode<4>, Decode<5>,
                                          Decode<6>, Decode<7>, Decode<8>};
  kByBits[matrix.bits - 2](matrix, column, scale, out);
}

}  // namespace edgefold
