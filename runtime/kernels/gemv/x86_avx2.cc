// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemv/gemv.h"
#include "kernels/gemv/x86_avx2_factored.h"
#include "kernels/gemv/x86_avx2_panels.h"
#include "kernels/gemv/x86_avx2_symmetric.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 3;

using Panel = void(const PackedMatrix&, int64_t, const Activations&, int64_t, int32_t*, int64_t);

template <int kBits, int kRows>
Panel* ChooseWay(const PackedMatrix& matrix, bool is_unsigned) {
  if constexpr (kBits <= 4) {
    const Factors& factors = matrix.factors;
    if (factors.shapes > 0 && !is_unsigned) {
      // Half a group suits all; few levels of one shape (method shift) deserve a variant.
      return FewLevels(factors) ? FactoredPanel<kBits, 1, kRows, 8>::Multiply
                                : FactoredPanel<kBits, 2, kRows, 4>::Multiply;
    }
  }
  if (matrix.linear) {
    return is_unsigned ? LinearPanel<kBits, kRows, true> : LinearPanel<kBits, kRows, false>;
  }
  if constexpr (kBits == 4) {
    if (matrix.symmetric && !is_unsigned) return SymmetricPanel<kRows>;
  }
  return is_unsigned ? TablePanel<kBits, kRows, true> : TablePanel<kBits, kRows, false>;
}

template <int kRows>
Panel* ChoosePanel(const PackedMatrix& matrix, bool is_unsigned) {
  static constexpr Panel* (*kByBits[])(const PackedMatrix&, bool) = {
      ChooseWay<2, kRows>, ChooseWay<3, kRows>, ChooseWay<4, kRows>, ChooseWay<5, kRows>,
      ChooseWay<6, kRows>, ChooseWay<7, kRows>, ChooseWay<8, kRows>};
  return kByBits[matrix.bits - 2](matrix, is_unsigned);
}

}  // namespace

void gemv_x86_avx2(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                   const Activations& a, int32_t* acc, int64_t acc_stride) {
  Panel* const by_rows[] = {ChoosePanel<1>(matrix, a.is_unsigned),
                            ChoosePanel<2>(matrix, a.is_unsigned),
                            ChoosePanel<3>(matrix, a.is_unsigned)};
  for (int64_t m = 0; m < a.rows; m += kTileRows) {
    const int64_t rows = a.rows - m < kTileRows ? a.rows - m : kTileRows;
    for (int64_t p = 0; p < panel_count; ++p) {
      int32_t* out = acc + m * acc_stride + p * kPanelColumns;
      by_rows[rows - 1](matrix, first_panel + p, a, m, out, acc_stride);
    }
  }
}

}  // namespace edgefold
