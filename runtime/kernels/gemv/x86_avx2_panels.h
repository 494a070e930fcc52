// SPDX-License-Identifier: Apache-2.0
// One panel of a matrix that is not factored times kRows rows, decoded in registers. Included by
// x86_avx2.cc and x86_avx2_factored.h alone.
#pragma once

#include <immintrin.h>

#include "base/activations.h"
#include "base/unroll.h"
#include "base/x86_avx2.h"
#include "base/x86_avx2_codes.h"

namespace edgefold {
namespace {

// Four products a column, as int32; int8 rows times `by` (int16 in every lane).
template <bool kUnsigned>
inline __m256i Products(__m256i weights, __m256i codes, __m256i by) {
  if constexpr (kUnsigned) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    const __m256i odd = _mm256_srai_epi16(weights, 8);
    const __m256i codes_even = _mm256_and_si256(codes, _mm256_set1_epi16(0x00ff));
    const __m256i first = _mm256_madd_epi16(even, codes_even);
    return _mm256_add_epi32(first, _mm256_madd_epi16(odd, _mm256_srli_epi16(codes, 8)));
  } else {
    // At most 2 * 127 * 127 a pair: never saturates.
    const __m256i pairs =
        _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
    return _mm256_madd_epi16(pairs, by);
  }
}

// Fetches a group's codes ahead: they are read once, from memory, and a page is soon over.
template <int kBits>
inline EF_INLINE void PrefetchGroup(const uint8_t* codes) {
  constexpr int64_t kAhead = 3072;
  Unroll<kBits>([&](auto line) EF_INLINE {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kAhead + line * 64), _MM_HINT_T0);
  });
}

// int32 sums of 16 columns a row.
template <int kRows>
struct Sums {
  __m256i of[kRows][2];

  Sums() {
    Unroll<kRows>([&](auto r) EF_INLINE { of[r][0] = of[r][1] = _mm256_setzero_si256(); });
  }
  void Store(int32_t* acc, int64_t acc_stride) const {
    Unroll<kRows>([&](auto r) EF_INLINE {
      Unroll<2>([&](auto h) EF_INLINE {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * acc_stride + h * 8), of[r][h]);
      });
    });
  }
};

// Calls group(number of the group) once and unit(number of the unit, codes) for each of its units.
template <int kBits, typename Group, typename Unit>
inline EF_INLINE void ForUnits(const PackedMatrix& matrix, int64_t panel, const Group& group,
                               const Unit& unit) {
  const uint8_t* packed = matrix.PanelCodes(panel);
  const int64_t units = matrix.Units();
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    group(first / kGroupUnits);
    PrefetchGroup<kBits>(packed + first * 8 * kBits);
    const int64_t last = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < last; ++u) {
      __m256i codes[2];
      LoadCodes<kBits>(packed + u * 8 * kBits, codes);
      unit(u, codes);
    }
  }
}

// Any tables.
template <int kBits, int kRows, bool kUnsigned>
void TablePanel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                int32_t* acc, int64_t acc_stride) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t* rows = a.Row(row);
  Sums<kRows> sums;
  ColumnTables<kBits> tables;
  ForUnits<kBits>(
      matrix, panel,
      [&](int64_t g) EF_INLINE { tables.Load(matrix, matrix.GroupSelectors(panel, g)); },
      [&](int64_t u, const __m256i(&codes)[2]) EF_INLINE {
        Unroll<2>([&](auto h) EF_INLINE {
          const __m256i weights = tables.Look(h, codes[h]);
          Unroll<kRows>([&](auto r) EF_INLINE {
            const __m256i x = Broadcast(rows + r * a.stride + u * kUnitDepth);
            sums.of[r][h] = _mm256_add_epi32(sums.of[r][h], Products<kUnsigned>(weights, x, ones));
            Pin(sums.of[r][h]);
          });
        });
      });
  sums.Store(acc, acc_stride);
}

// Tables that are multiples of one another: the multiplier takes the place of the ones that widen
// the sums, so decoding is a subtraction.
template <int kBits, int kRows, bool kUnsigned>
void LinearPanel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                 int32_t* acc, int64_t acc_stride) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(matrix.lowest));
  const __m256i zero = _mm256_set1_epi8(static_cast<char>(matrix.zero));
  const __m128i steps = _mm_loadu_si128(reinterpret_cast<const __m128i*>(matrix.multiplier));
  const uint8_t* rows = a.Row(row);
  Sums<kRows> sums;
  __m256i by[2];
  ForUnits<kBits>(
      matrix, panel,
      [&](int64_t g) EF_INLINE { LoadMultipliers(steps, matrix.GroupSelectors(panel, g), by); },
      [&](int64_t u, const __m256i(&codes)[2]) EF_INLINE {
        Unroll<2>([&](auto h) EF_INLINE {
          const __m256i level = _mm256_sub_epi8(_mm256_max_epu8(codes[h], lowest), zero);
          Unroll<kRows>([&](auto r) EF_INLINE {
            const __m256i x = Broadcast(rows + r * a.stride + u * kUnitDepth);
            __m256i products = Products<kUnsigned>(level, x, by[h]);
            if constexpr (kUnsigned) {
              products = _mm256_mullo_epi32(products, _mm256_srai_epi32(by[h], 16));
            }
            sums.of[r][h] = _mm256_add_epi32(sums.of[r][h], products);
            Pin(sums.of[r][h]);
          });
        });
      });
  sums.Store(acc, acc_stride);
}

}  // namespace
}  // namespace edgefold
