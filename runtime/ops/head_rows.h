// SPDX-License-Identifier: Apache-2.0
// Where rows of attention heads lie: [heads / side_by_side][rows][side_by_side][columns]. A head's
// rows follow one another, or lie beside those of the other heads of a sample, as a projection
// writes them.
#pragma once

#include <cstdint>

namespace edgefold {

struct HeadRows {
  int64_t rows;
  int64_t columns;
  int64_t side_by_side;  // 1, or the heads of a sample

  int64_t Stride() const { return side_by_side * columns; }
  // Of a head's first row.
  int64_t Offset(int64_t head) const {
    return (head / side_by_side * side_by_side * rows + head % side_by_side) * columns;
  }
};

}  // namespace edgefold
