// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {
namespace {

int WeightByFactors(const PackedMatrix& matrix, int64_t k, int64_t column) {
  const int64_t panel = column / kPanelColumns;
  const uint8_t* selectors = matrix.GroupSelectors(panel, k / kGroupDepth);
  const int t = SelectorOf(selectors, static_cast<int>(column % kPanelColumns));
  const Factors& f = matrix.factors;
  return f.factor[t] * f.shape[f.shape_of[t]][CodeAt(matrix, k, column)];
}

int CodeOfRow(const ArrangedRows& rows, int64_t m, int64_t k) {
  const int64_t block = k / kBlockDepth;
  const int64_t depth = rows.Depth(block);
  const int64_t side = depth / 2;
  const int64_t inside = k % kBlockDepth;
  const int64_t at = inside % side / 2 * 4 + inside / side * 2 + inside % 2;
  const uint8_t code = rows.Codes(block)[m * depth + at];
  return rows.is_unsigned ? code : static_cast<int8_t>(code);
}

}  // namespace

void gemm_shift_reference(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                          const ArrangedRows& rows, void* /*scratch*/, int32_t* acc,
                          int64_t acc_stride) {
  for (int64_t m = 0; m < rows.rows; ++m) {
    for (int64_t c = 0; c < panel_count * kPanelColumns; ++c) {
      int32_t sum = 0;
      for (int64_t k = 0; k < matrix.k; ++k) {
        sum += CodeOfRow(rows, m, k) * WeightByFactors(matrix, k, first_panel * kPanelColumns + c);
      }
      acc[m * acc_stride + c] = sum;
    }
  }
}

}  // namespace edgefold
