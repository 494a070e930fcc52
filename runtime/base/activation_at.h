// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/activations.h"

namespace edgefold {

// Code k of a row as the integer it stands for.
inline int32_t ActivationAt(const Activations& a, int64_t row, int64_t k) {
  const uint8_t code = a.Row(row)[k];
  return a.is_unsigned ? code : static_cast<int8_t>(code);
}

}  // namespace edgefold
