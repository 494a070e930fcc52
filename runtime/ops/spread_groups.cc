// SPDX-License-Identifier: Apache-2.0
#include "ops/spread_groups.h"

#include <algorithm>

namespace edgefold {
namespace {

constexpr int kZero = 128;  // the code of weight 0

}  // namespace

bool SpreadGroups::Applies(const ConvAttributes& a) {
  const int64_t outputs = a.GroupOutputs();
  if (a.group == 1 || outputs % kPanelColumns == 0) return false;
  if (2 * a.Taps() * a.GroupInputs() > kMaxIntegerDepth) return false;
  for (int64_t first = 0; first < a.out_channels; first += kPanelColumns) {
    const int64_t last = std::min(first + kPanelColumns, a.out_channels) - 1;
    if (last / outputs - first / outputs > 1) return false;
  }
  return true;
}

SpreadGroups::SpreadGroups(const PackedMatrix& matrix, const ConvAttributes& a)
    : group_inputs_(a.GroupInputs()),
      group_outputs_(a.GroupOutputs()),
      inputs_(2 * group_inputs_),
      selectors_(8),
      table_(256) {
  for (int c = 0; c < 256; ++c) table_[c] = static_cast<int8_t>(std::max(c - kZero, -127));
  matrix_.k = a.Taps() * inputs_;
  matrix_.n = a.out_channels;
  matrix_.bits = 8;
  matrix_.tables = 1;
  const int64_t panel_bytes = matrix_.Units() * matrix_.UnitBytes();
  codes_.assign(matrix_.Panels() * panel_bytes, kZero);
  for (int64_t n = 0; n < matrix_.n; ++n) {
    const int64_t panel = n / kPanelColumns;
    const int64_t place = n / group_outputs_ * group_inputs_ - FirstInput(panel);
    uint8_t* column = codes_.data() + panel * panel_bytes + n % kPanelColumns * kUnitDepth;
    for (int64_t k = 0; k < matrix.k; ++k) {
      const int64_t row = k / group_inputs_ * inputs_ + place + k % group_inputs_;
      column[row / kUnitDepth * kUnitCodes + row % kUnitDepth] =
          static_cast<uint8_t>(WeightAt(matrix, k, n) + kZero);
    }
  }
  matrix_.codes = codes_.data();
  matrix_.selectors = selectors_.data();
  matrix_.table = table_.data();
  DetectStructure(&matrix_);
}

}  // namespace edgefold
