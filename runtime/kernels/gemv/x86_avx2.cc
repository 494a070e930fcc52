// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx2.h"

#include <immintrin.h>

#include "base/x86_avx2_codes.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemv/gemv.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 3;

// Adds four products a column to int32 sums.
template <bool kUnsigned>
inline __m256i Accumulate(__m256i sums, __m256i weights, __m256i codes) {
  if constexpr (kUnsigned) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    const __m256i odd = _mm256_srai_epi16(weights, 8);
    const __m256i codes_even = _mm256_and_si256(codes, _mm256_set1_epi16(0x00ff));
    const __m256i first = _mm256_madd_epi16(even, codes_even);
    const __m256i second = _mm256_madd_epi16(odd, _mm256_srli_epi16(codes, 8));
    return _mm256_add_epi32(sums, _mm256_add_epi32(first, second));
  } else {
    // At most 2 * 127 * 127 a pair: never saturates.
    const __m256i pairs =
        _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
}

template <int kRows>
inline void Store(const __m256i sums[kRows][2], int32_t* acc, int64_t acc_stride) {
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < 2; ++h) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * acc_stride + h * 8), sums[r][h]);
    }
  }
}

template <int kBits, int kRows, bool kUnsigned>
void TablePanel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                int32_t* acc, int64_t acc_stride) {
  const uint8_t* packed = matrix.PanelCodes(panel);
  const int64_t units = matrix.Units();
  __m256i sums[kRows][2] = {};
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    ColumnTables<kBits> tables;
    tables.Load(matrix, matrix.GroupSelectors(panel, first / kGroupUnits));
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < end; ++u) {
      __m256i codes[2];
      LoadCodes<kBits>(packed + u * 8 * kBits, codes);
      for (int h = 0; h < 2; ++h) {
        const __m256i weights = tables.Look(h, codes[h]);
        for (int r = 0; r < kRows; ++r) {
          const __m256i x = Broadcast(a.Row(row + r) + u * kUnitDepth);
          sums[r][h] = Accumulate<kUnsigned>(sums[r][h], weights, x);
        }
      }
    }
  }
  Store<kRows>(sums, acc, acc_stride);
}

// 16-bit sums within a group, as gemm_shift does (see there for the bounds). int8 rows only.
template <int kBits, int kRows>
void LinearPanel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                 int32_t* acc, int64_t acc_stride) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(matrix.lowest));
  const __m256i minus_zero = _mm256_set1_epi16(static_cast<int16_t>(-matrix.zero));
  const __m128i steps = _mm_loadu_si128(reinterpret_cast<const __m128i*>(matrix.multiplier));
  const uint8_t* packed = matrix.PanelCodes(panel);
  const int64_t units = matrix.Units();
  __m256i sums[kRows][2] = {};
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    const int64_t g = first / kGroupUnits;
    __m256i by[2];
    LoadMultipliers(steps, matrix.GroupSelectors(panel, g), by);
    __m256i part[kRows][2];
    for (int r = 0; r < kRows; ++r) {
      part[r][0] = part[r][1] =
          _mm256_mullo_epi16(Broadcast(a.PairSums(row + r) + g * 2), minus_zero);
    }
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < end; ++u) {
      __m256i codes[2];
      LoadCodes<kBits>(packed + u * 8 * kBits, codes);
      for (int r = 0; r < kRows; ++r) {
        const __m256i x = Broadcast(a.Row(row + r) + u * kUnitDepth);
        for (int h = 0; h < 2; ++h) {
          const __m256i pairs = _mm256_maddubs_epi16(_mm256_max_epu8(codes[h], lowest), x);
          part[r][h] = _mm256_add_epi16(part[r][h], pairs);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 2; ++h) {
        sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(part[r][h], by[h]));
      }
    }
  }
  Store<kRows>(sums, acc, acc_stride);
}

using Panel = void(const PackedMatrix&, int64_t, const Activations&, int64_t, int32_t*, int64_t);

template <int kRows>
Panel* ChoosePanel(const PackedMatrix& matrix, bool is_unsigned) {
  if (GemmShiftApplies(matrix) && !is_unsigned) {
    static constexpr Panel* kLinear[] = {LinearPanel<2, kRows>, LinearPanel<3, kRows>,
                                         LinearPanel<4, kRows>};
    return kLinear[matrix.bits - 2];
  }
#define EF_BITS(bits) \
  { TablePanel<bits, kRows, false>, TablePanel<bits, kRows, true> }
  static constexpr Panel* kTables[][2] = {EF_BITS(2), EF_BITS(3), EF_BITS(4), EF_BITS(5),
                                          EF_BITS(6), EF_BITS(7), EF_BITS(8)};
#undef EF_BITS
  return kTables[matrix.bits - 2][is_unsigned];
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
