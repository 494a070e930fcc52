// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/packed_matrix.h"

namespace edgefold {

// out[k] = float(W[k, column]) * scale for k < K: one row of an embedding stored as a column.
// 0 <= column < N. Each product is rounded once.
void DecodeColumn(const PackedMatrix& matrix, int64_t column, float scale, float* out);

}  // namespace edgefold
