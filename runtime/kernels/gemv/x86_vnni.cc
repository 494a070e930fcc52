// SPDX-License-Identifier: Apache-2.0
// As gemm/x86_vnni.cc, with the flipped sign bit already in the tables.
#include "base/unroll.h"
#include "base/x86_vnni_codes.h"
#include "kernels/gemv/gemv.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 4;

template <int kBits, int kRows, bool kUnsigned>
void Panel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
           int32_t* acc, int64_t acc_stride) {
  const AllTables<kBits> tables(matrix, kUnsigned ? 0 : 0x80);
  const uint8_t* packed = matrix.PanelCodes(panel);
  const uint8_t* rows = a.Row(row);
  const int64_t units = matrix.Units();
  // Even and odd units apart: one chain of products would wait for itself.
  __m512i sums[kRows][2];
  Unroll<kRows>([&](auto r) EF_INLINE { sums[r][0] = sums[r][1] = _mm512_setzero_si512(); });
  const auto unit = [&](int64_t u, __m512i offsets, auto parity) EF_INLINE {
    const __m512i w = tables.Look(LoadCodes<kBits>(packed + u * 8 * kBits), offsets);
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m512i x = Broadcast(rows + r * a.stride + u * kUnitDepth);
      sums[r][parity] = kUnsigned ? _mm512_dpbusd_epi32(sums[r][parity], x, w)
                                  : _mm512_dpbusd_epi32(sums[r][parity], w, x);
    });
  };
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    const __m512i offsets = tables.Offsets(matrix.GroupSelectors(panel, first / kGroupUnits));
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    int64_t u = first;
    for (; u + 1 < end; u += 2) {
      unit(u, offsets, Index<0>{});
      unit(u + 1, offsets, Index<1>{});
    }
    if (u < end) unit(u, offsets, Index<0>{});
  }
  Unroll<kRows>([&](auto r) EF_INLINE {
    const __m512i offset = _mm512_set1_epi32(kUnsigned ? 0 : a.sums[row + r] * 128);
    const __m512i sum = _mm512_add_epi32(sums[r][0], sums[r][1]);
    _mm512_storeu_si512(acc + r * acc_stride, _mm512_sub_epi32(sum, offset));
  });
}

using PanelFunction = void(const PackedMatrix&, int64_t, const Activations&, int64_t, int32_t*,
                           int64_t);

template <int kBits>
PanelFunction* ForRows(int64_t rows, bool is_unsigned) {
  static constexpr PanelFunction* kByRows[2][kTileRows] = {
      {Panel<kBits, 1, false>, Panel<kBits, 2, false>, Panel<kBits, 3, false>,
       Panel<kBits, 4, false>},
      {Panel<kBits, 1, true>, Panel<kBits, 2, true>, Panel<kBits, 3, true>, Panel<kBits, 4, true>}};
  return kByRows[is_unsigned][rows - 1];
}

}  // namespace

void gemv_x86_vnni(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                   const Activations& a, int32_t* acc, int64_t acc_stride) {
  static constexpr PanelFunction* (*kByBits[])(int64_t, bool) = {
      ForRows<2>, ForRows<3>, ForRows<4>, ForRows<5>, ForRows<6>, ForRows<7>, ForRows<8>};
  for (int64_t m = 0; m < a.rows; m += kTileRows) {
    const int64_t rows = a.rows - m < kTileRows ? a.rows - m : kTileRows;
    PanelFunction* run = kByBits[matrix.bits - 2](rows, a.is_unsigned);
    for (int64_t p = 0; p < panel_count; ++p) {
      run(matrix, first_panel + p, a, m, acc + m * acc_stride + p * kPanelColumns, acc_stride);
    }
  }
}

}  // namespace edgefold
