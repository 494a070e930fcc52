// SPDX-License-Identifier: Apache-2.0
// Rows of codes as panels of the right operand of a product: what quantize_panels.h makes of
// floats.
#pragma once

#include <cstdint>

namespace edgefold {

// codes is [rows][columns]; panels as in quantize_panels.h, of whose size it is.
void PackCodes(const int8_t* codes, int64_t rows, int64_t columns, bool transposed, int8_t* panels);

}  // namespace edgefold
