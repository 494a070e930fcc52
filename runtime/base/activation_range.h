// SPDX-License-Identifier: Apache-2.0
// What float activations become:
//
//   code[k]    = clip(round_half_even(x[k] / (scale * 2^shift[k])), low, high)
//   operand[k] = code[k] * 2^shift[k]
//
// The operand is what the integer products read, so a channel shift costs them nothing.
#pragma once

#include <cstdint>
#include <vector>

namespace edgefold {

struct ActivationRange {
  int32_t low;               // -127..0; operands are int8 when negative, else uint8
  int32_t high;              // 0: activations stay float; low, high << shift fit the operand
  bool x_codes;              // x holds operands already, int8 or uint8
  std::vector<float> steps;  // 2^shift of every channel; empty where all shifts are 0

  bool is_float() const { return high == 0; }
  bool is_unsigned() const { return low >= 0; }
};

}  // namespace edgefold
