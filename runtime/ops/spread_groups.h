// SPDX-License-Identifier: Apache-2.0
// A grouped convolution whose groups give fewer channels than a panel has, as products of whole
// panels: a panel reads the input channels of both groups that it has columns of, and multiplies
// those of the other group by zero. Twice the products, but of a dense matrix, on codes as they
// lie.
#pragma once

#include <cstdint>
#include <vector>

#include "base/packed_matrix.h"
#include "ops/conv_shape.h"

namespace edgefold {

class SpreadGroups {
 public:
  // Whether no panel has columns of more than two groups, and some panel has of two.
  static bool Applies(const ConvAttributes& attributes);

  // Only where it applies. `matrix` is read here and no more.
  SpreadGroups(const PackedMatrix& matrix, const ConvAttributes& attributes);
  SpreadGroups(const SpreadGroups&) = delete;
  SpreadGroups& operator=(const SpreadGroups&) = delete;

  // [taps * inputs(), out_channels], of 8 bits; lives as long as this object.
  const PackedMatrix& matrix() const { return matrix_; }
  // Channels that a panel reads from FirstInput on; of the last panel some may lie beyond x, where
  // its weights are zero.
  int64_t inputs() const { return inputs_; }
  int64_t FirstInput(int64_t panel) const {
    return panel * kPanelColumns / group_outputs_ * group_inputs_;
  }

 private:
  int64_t group_inputs_;
  int64_t group_outputs_;
  int64_t inputs_;
  std::vector<uint8_t> codes_;
  std::vector<uint8_t> selectors_;
  std::vector<int8_t> table_;
  PackedMatrix matrix_ = {};
};

}  // namespace edgefold
