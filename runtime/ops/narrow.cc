// SPDX-License-Identifier: Apache-2.0
#include "ops/narrow.h"

#include <algorithm>

namespace edgefold {
namespace {

struct Group {
  int32_t q8[kGroupDepth];  // zero beyond K
};

int32_t Rounded(int32_t q8, int shift, int32_t highest) {
  const int32_t half = shift == 0 ? 0 : 1 << (shift - 1);
  return std::clamp((q8 + half) >> shift, -highest, highest);
}

int BestShift(const Group& group, int bits) {
  const int32_t highest = (1 << (bits - 1)) - 1;
  int best = 0;
  int32_t least = INT32_MAX;  // 32 * 127^2 fits
  for (int shift = 0; shift <= 8 - bits; ++shift) {
    int32_t error = 0;
    for (const int32_t q8 : group.q8) {
      const int32_t difference = q8 - Rounded(q8, shift, highest) * (1 << shift);
      error += difference * difference;
    }
    if (error < least) {
      least = error;
      best = shift;
    }
  }
  return best;
}

// Codes [unit of the group][column * 4 + k % 4] of one panel's group, to the fields of the layout.
void PackUnits(const uint8_t (*codes)[kUnitCodes], int64_t units, int bits, uint8_t* out) {
  for (int64_t u = 0; u < units; ++u, out += 8 * bits) {
    std::fill_n(out, 8 * bits, uint8_t{0});
    uint8_t* field = out;
    int position = 0;
    for (int width = 4; width > 0; width /= 2) {
      if ((bits & width) == 0) continue;
      const int bytes = 8 * width;
      const int mask = (1 << width) - 1;
      for (int p = 0; p < kUnitCodes; ++p) {
        field[p % bytes] |=
            static_cast<uint8_t>((codes[u][p] >> position & mask) << p / bytes * width);
      }
      position += width;
      field += bytes;
    }
  }
}

void NarrowGroup(const PackedMatrix& from, int64_t panel, int64_t g, NarrowMatrix* to) {
  const int bits = to->matrix.bits;
  const int32_t highest = (1 << (bits - 1)) - 1;
  const int64_t first_unit = g * kGroupUnits;
  const int64_t units = std::min<int64_t>(kGroupUnits, from.Units() - first_unit);
  const int64_t depth = std::min<int64_t>(kGroupDepth, from.k - g * kGroupDepth);
  const uint8_t* bytes = from.PanelCodes(panel) + first_unit * kUnitCodes;  // 8 bits: a byte a code
  uint8_t codes[kGroupUnits][kUnitCodes] = {};
  uint8_t* selectors = to->selectors.data() + (panel * from.Groups() + g) * 8;
  const int64_t columns = std::min<int64_t>(kPanelColumns, from.n - panel * kPanelColumns);
  for (int64_t c = 0; c < columns; ++c) {
    const auto place = [c](int64_t k) { return c * kUnitDepth + k % kUnitDepth; };
    Group group = {};
    for (int64_t k = 0; k < depth; ++k) {
      group.q8[k] = std::max<int32_t>(bytes[k / kUnitDepth * kUnitCodes + place(k)], 1) - 128;
    }
    const int shift = BestShift(group, bits);
    selectors[c % 8] |= static_cast<uint8_t>(shift << c / 8 * 4);
    for (int64_t k = 0; k < depth; ++k) {
      const int32_t code = Rounded(group.q8[k], shift, highest) + highest + 1;
      codes[k / kUnitDepth][place(k)] = static_cast<uint8_t>(code);
    }
  }
  const int64_t unit = panel * from.Units() + first_unit;
  PackUnits(codes, units, bits, to->codes.data() + unit * to->matrix.UnitBytes());
}

}  // namespace

bool CanNarrow(const PackedMatrix& matrix) {
  if (matrix.bits != 8 || matrix.tables != 1) return false;
  for (int c = 0; c < 256; ++c) {
    if (matrix.table[c] != std::max(c, 1) - 128) return false;
  }
  return true;
}

NarrowMatrix Narrow(const PackedMatrix& matrix, int bits) {
  NarrowMatrix to;
  const int levels = 1 << bits;
  to.matrix.k = matrix.k;
  to.matrix.n = matrix.n;
  to.matrix.bits = bits;
  to.matrix.tables = 9 - bits;
  to.codes.resize(matrix.Panels() * matrix.Units() * to.matrix.UnitBytes());
  to.selectors.resize(matrix.Panels() * matrix.Groups() * 8);
  for (int shift = 0; shift <= 8 - bits; ++shift) {
    for (int c = 0; c < levels; ++c) {
      to.table.push_back(static_cast<int8_t>((std::max(c, 1) - levels / 2) * (1 << shift)));
    }
  }
  to.matrix.codes = to.codes.data();
  to.matrix.selectors = to.selectors.data();
  to.matrix.table = to.table.data();
  for (int64_t panel = 0; panel < matrix.Panels(); ++panel) {
    for (int64_t g = 0; g < matrix.Groups(); ++g) NarrowGroup(matrix, panel, g, &to);
  }
  DetectStructure(&to.matrix);
  return to;
}

}  // namespace edgefold
