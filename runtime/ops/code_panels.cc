// SPDX-License-Identifier: Apache-2.0
#include "ops/code_panels.h"

#include <algorithm>
#include <cstring>

#include "base/packed_matrix.h"
#include "base/rounding.h"

namespace edgefold {
namespace {

// Each row is a column of the operand: four of its codes at a time.
void PackTransposed(const int8_t* codes, int64_t rows, int64_t columns, int8_t* panels) {
  const int64_t units = CeilDiv(columns, kUnitDepth);
  for (int64_t k = 0; k < RoundUp(rows, kPanelColumns); ++k) {
    int8_t* out =
        panels + (k / kPanelColumns * units * kPanelColumns + k % kPanelColumns) * kUnitDepth;
    for (int64_t u = 0; u < units; ++u) {
      const int64_t left = k < rows ? std::min<int64_t>(columns - u * kUnitDepth, kUnitDepth) : 0;
      int8_t four[kUnitDepth] = {};
      for (int64_t i = 0; i < left; ++i) four[i] = codes[k * columns + u * kUnitDepth + i];
      std::memcpy(out + u * kUnitCodes, four, kUnitDepth);
    }
  }
}

// Four rows share a unit.
void PackDeep(const int8_t* codes, int64_t rows, int64_t columns, int8_t* panels) {
  const int64_t units = CeilDiv(rows, kUnitDepth);
  for (int64_t panel = 0; panel < CeilDiv(columns, kPanelColumns); ++panel) {
    const int64_t first = panel * kPanelColumns;
    const int64_t width = std::min<int64_t>(columns - first, kPanelColumns);
    for (int64_t u = 0; u < units; ++u) {
      int8_t unit[kUnitCodes] = {};
      for (int64_t i = 0; i < std::min<int64_t>(rows - u * kUnitDepth, kUnitDepth); ++i) {
        const int8_t* row = codes + (u * kUnitDepth + i) * columns + first;
        for (int64_t c = 0; c < width; ++c) unit[c * kUnitDepth + i] = row[c];
      }
      std::memcpy(panels + (panel * units + u) * kUnitCodes, unit, kUnitCodes);
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
