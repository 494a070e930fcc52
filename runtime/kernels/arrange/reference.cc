// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels/arrange/arrange.h"

namespace edgefold {

void arrange_reference(const Activations& a, const ArrangedRows& out) {
  for (int64_t b = 0; b < out.Blocks(); ++b) {
    for (int64_t m = 0; m < out.rows; ++m) {
      uint8_t* codes = out.Codes(b) + m * kBlockDepth;
      for (int64_t i = 0; i < kBlockDepth; ++i) {
        const int64_t group = b * kBlockGroups + i / 2 % 2;
        const int64_t k = group * kGroupDepth + i / 4 * 2 + i % 2;
        codes[i] = group < out.groups ? a.Row(m)[k] : 0;
      }
      if (out.is_unsigned) continue;
      uint16_t offsets[kBlockUnits][2] = {};
      for (int64_t i = 0; i < kBlockDepth; ++i) {
        uint16_t& offset = offsets[i / kUnitDepth / out.run_units][i / 2 % 2];
        offset = static_cast<uint16_t>(offset - out.bias * static_cast<int8_t>(codes[i]));
      }
      std::memcpy(out.Offsets(b) + m * out.Runs(), offsets, out.Runs() * 4);
    }
  }
}

}  // namespace edgefold
