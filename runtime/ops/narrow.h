// SPDX-License-Identifier: Apache-2.0
// A matrix of 8-bit codes rounded to fewer bits when a session opens, so that one file runs at
// several widths (Double Rounding, arXiv 2502.01199, with a shift for each group as in ShiftQuant).
//
// Of 32 consecutive k of a column, with the integers q8 in [-127, 127] and each shift e from 0 to
// 8 - bits:
//
//   q[k] = clip((q8[k] + 2^(e-1)) >> e, -(2^(bits-1) - 1), 2^(bits-1) - 1)      q8[k] where e = 0
//   W[k] = q[k] << e
//
// The e of the smallest sum of (q8 - W)^2 is taken, the smaller of equal ones. The result is a
// matrix of method `shift`: what is left of the codes is stored in the narrow layout.
#pragma once

#include <cstdint>
#include <vector>

#include "base/packed_matrix.h"

namespace edgefold {

struct NarrowMatrix {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> selectors;
  std::vector<int8_t> table;
  PackedMatrix matrix = {};  // of the memory above
};

// Whether a matrix has 8-bit codes c that mean max(c, 1) - 128.
bool CanNarrow(const PackedMatrix& matrix);

// For matrices that CanNarrow; 2 <= bits <= 7.
NarrowMatrix Narrow(const PackedMatrix& matrix, int bits);

}  // namespace edgefold
