// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels/arrange/arrange.h"

namespace edgefold {

void arrange_reference(const Activations& a, int64_t first, const ArrangedRows& out) {
  for (int64_t b = 0; b < out.Blocks(); ++b) {
    for (int64_t row = 0; row < a.rows; ++row) {
      const int64_t m = first + row;
      const int64_t depth = out.Depth(b);
      uint8_t* codes = out.Codes(b) + m * depth;
      for (int64_t i = 0; i < depth; ++i) {
        codes[i] = a.Row(row)[b * kBlockDepth + i / 2 % 2 * (depth / 2) + i / 4 * 2 + i % 2];
      }
      if (out.is_unsigned) continue;
      uint16_t offsets[kBlockUnits][2] = {};
      for (int64_t i = 0; i < depth; ++i) {
        uint16_t& offset = offsets[i / kUnitDepth / out.run_units][i / 2 % 2];
        offset = static_cast<uint16_t>(offset - out.bias * static_cast<int8_t>(codes[i]));
      }
      std::memcpy(out.Offsets(b) + m * out.Runs(b), offsets, out.Runs(b) * 4);
    }
  }
}

}  // namespace edgefold
