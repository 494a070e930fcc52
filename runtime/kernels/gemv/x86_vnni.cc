// SPDX-License-Identifier: Apache-2.0
// As gemm/x86_vnni.cc, with the flipped sign bit already in the tables.
#include "kernels/gemv/gemv.h"
#include "kernels/gemv/x86_vnni_stripes.h"

namespace edgefold {
namespace {

// The third-level cache answers after about as long as this takes to decode.
constexpr int64_t kFetchAhead = 4096;

template <typename Stripes, int kRows, bool kUnsigned>
void Panel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
           int32_t* acc, int64_t acc_stride) {
  constexpr int kUnits = Stripes::kUnits;
  constexpr int kChains = kRows == 1 && kUnits == 2 ? 2 : 1;  // a product waits 4 cycles for one
  Stripes stripes(matrix, kUnsigned ? 0 : 0x80);
  const uint8_t* codes = matrix.PanelCodes(panel);
  const uint8_t* rows = a.Row(row);
  const int64_t units = matrix.Units();
  __m512i sums[kChains][kRows][kUnits];
  Unroll<kChains>([&](auto c) EF_INLINE {
    Unroll<kRows>([&](auto r) EF_INLINE {
      Unroll<kUnits>([&](auto s) EF_INLINE { sums[c][r][s] = _mm512_setzero_si512(); });
    });
  });
  // Units beyond the last meet activations of 0.
  const auto step = [&](int64_t u, auto chain, auto all) EF_INLINE {
    __m512i w[kUnits];
    const uint8_t* step_codes = codes + u * matrix.UnitBytes();
    __builtin_prefetch(step_codes + kFetchAhead);
    stripes.template Weights<all>(step_codes, units - u, w);
    Unroll<kRows>([&](auto r) EF_INLINE {
      Unroll<kUnits>([&](auto s) EF_INLINE {
        const __m512i x = Stripes::Operand(rows + r * a.stride + u * kUnitDepth, s);
        __m512i& sum = sums[chain][r][s];
        sum = kUnsigned ? _mm512_dpbusd_epi32(sum, x, w[s]) : _mm512_dpbusd_epi32(sum, w[s], x);
      });
    });
  };
  int64_t u = 0;
  for (; u + kGroupUnits <= units; u += kGroupUnits) {
    stripes.Group(matrix.GroupSelectors(panel, u / kGroupUnits));
    Unroll<kGroupUnits / kUnits>(
        [&](auto i) EF_INLINE { step(u + i * kUnits, Index<i % kChains>{}, Index<1>{}); });
  }
  if (u < units) stripes.Group(matrix.GroupSelectors(panel, u / kGroupUnits));
  for (; u < units; u += kUnits) step(u, Index<0>{}, Index<0>{});
  Unroll<kRows>([&](auto r) EF_INLINE {
    if constexpr (kChains == 2) {
      Unroll<kUnits>([&](auto s) EF_INLINE {
        sums[0][r][s] = _mm512_add_epi32(sums[0][r][s], sums[1][r][s]);
      });
    }
    const __m512i offset = _mm512_set1_epi32(kUnsigned ? 0 : a.sums[row + r] * 128);
    _mm512_storeu_si512(acc + r * acc_stride,
                        _mm512_sub_epi32(Stripes::Columns(sums[0][r]), offset));
  });
}

using PanelFunction = void(const PackedMatrix&, int64_t, const Activations&, int64_t, int32_t*,
                           int64_t);

constexpr int64_t kMostRows = 7;

// Stripes put the activations of several units side by side, for every row; with more than three of
// them whole units are faster.
template <typename Stripes, typename Units, bool kUnsigned>
PanelFunction* ForRows(int64_t rows) {
  static constexpr PanelFunction* kByRows[kMostRows] = {
      Panel<Stripes, 1, kUnsigned>, Panel<Stripes, 2, kUnsigned>, Panel<Stripes, 3, kUnsigned>,
      Panel<Units, 4, kUnsigned>,   Panel<Units, 5, kUnsigned>,   Panel<Units, 6, kUnsigned>,
      Panel<Units, 7, kUnsigned>};
  return kByRows[rows - 1];
}

template <typename Stripes, typename Units = Stripes>
PanelFunction* ForSign(int64_t rows, bool is_unsigned) {
  return is_unsigned ? ForRows<Stripes, Units, true>(rows) : ForRows<Stripes, Units, false>(rows);
}

PanelFunction* Function(const PackedMatrix& matrix, int64_t rows, bool is_unsigned) {
  using Choose = PanelFunction*(int64_t, bool);
  static constexpr Choose* kByBits[2][7] = {
      {ForSign<LaneStripes<2, 1>, UnitStripes<2, 1>>, ForSign<LaneStripes<3, 2>, UnitStripes<3, 2>>,
       ForSign<NibbleStripes<2>, UnitStripes<4, 2>>, ForSign<UnitStripes<5, 2>>,
       ForSign<UnitStripes<6, 2>>, ForSign<UnitStripes<7, 2>>, ForSign<UnitStripes<8, 4>>},
      {nullptr, nullptr, ForSign<NibbleStripes<4>, UnitStripes<4, 4>>, ForSign<UnitStripes<5, 4>>,
       ForSign<UnitStripes<6, 4>>, ForSign<UnitStripes<7, 4>>, ForSign<UnitStripes<8, 4>>}};
  return kByBits[TableRegisters(matrix) > 2][matrix.bits - 2](rows, is_unsigned);
}

}  // namespace

void gemv_x86_vnni(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                   const Activations& a, int32_t* acc, int64_t acc_stride) {
  for (int64_t m = 0; m < a.rows; m += kMostRows) {
    const int64_t rows = a.rows - m < kMostRows ? a.rows - m : kMostRows;
    PanelFunction* run = Function(matrix, rows, a.is_unsigned);
    for (int64_t p = 0; p < panel_count; ++p) {
      run(matrix, first_panel + p, a, m, acc + m * acc_stride + p * kPanelColumns, acc_stride);
    }
  }
}

}  // namespace edgefold
