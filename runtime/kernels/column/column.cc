// SPDX-License-Identifier: Apache-2.0
#include "kernels/column/column.h"

#include <algorithm>

namespace edgefold {

void DecodeColumn(const PackedMatrix& matrix, int64_t column, float scale, float* out) {
  const int64_t panel = column / kPanelColumns;
  const int in_panel = static_cast<int>(column % kPanelColumns);
  const int first_code = in_panel * kUnitDepth;
  for (int64_t k = 0; k < matrix.k; k += kUnitDepth) {
    const uint8_t* selectors = matrix.GroupSelectors(panel, k / kGroupDepth);
    const int8_t* table = matrix.Table(SelectorOf(selectors, in_panel));
    const uint8_t* field = matrix.PanelCodes(panel) + k / kUnitDepth * matrix.UnitBytes();
    int codes[kUnitDepth] = {};
    int position = 0;
    // A unit's four codes of a column stand in adjacent bytes of each field, at one bit offset.
    for (int width = 8; width > 0; width /= 2) {
      if ((matrix.bits & width) == 0) continue;
      const int bytes = 8 * width;
      const int shift = first_code / bytes * width;
      const uint8_t* four = field + first_code % bytes;
      for (int kk = 0; kk < kUnitDepth; ++kk) {
        codes[kk] |= (four[kk] >> shift & ((1 << width) - 1)) << position;
      }
      position += width;
      field += bytes;
    }
    const int64_t count = std::min<int64_t>(kUnitDepth, matrix.k - k);
    for (int64_t kk = 0; kk < count; ++kk)
      out[k + kk] = static_cast<float>(table[codes[kk]]) * scale;
  }
}

}  // namespace edgefold
