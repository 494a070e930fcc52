// SPDX-License-Identifier: Apache-2.0
// One panel of 4-bit codes whose tables are eight magnitudes and a sign, times int8 rows. Included
// by x86_avx2.cc alone.
//
// With v = 2 * code - 15 the sign of a weight is that of v, and |v| = 2 * i + 1 names magnitude i.
// Bit 0 of |v| is free: it names one of two columns whose magnitudes share a register, so that two
// lookups replace four, and the sign goes to the activations without the weight ever being formed.
#pragma once

#include <immintrin.h>

#include "kernels/gemv/x86_avx2_panels.h"

namespace edgefold {
namespace {

// [columns 0..7, 8..15][columns j and j + 1 for j = 0, 2 (j + 4, j + 5 in the high lane)]
struct Magnitudes {
  __m256i of[2][2];

  inline void Load(const int8_t* table, const uint8_t* selectors) {
    uint64_t pairs;
    __builtin_memcpy(&pairs, selectors, 8);
    const auto upper = [&](int shift) EF_INLINE {
      return _mm_loadl_epi64(
          reinterpret_cast<const __m128i*>(table + ((pairs >> shift & 15) << 4) + 8));
    };
    Unroll<2>([&](auto h) EF_INLINE {
      Unroll<2>([&](auto i) EF_INLINE {
        const int at = 16 * i + 4 * h;
        const __m128i low = _mm_unpacklo_epi8(upper(at), upper(at + 8));
        const __m128i high = _mm_unpacklo_epi8(upper(at + 32), upper(at + 40));
        of[h][i] = _mm256_set_m128i(high, low);
      });
    });
  }
};

template <int kRows>
void SymmetricPanel(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                    int32_t* acc, int64_t acc_stride) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i doubled = _mm256_set1_epi8(0x1e);
  const __m256i middle = _mm256_set1_epi8(15);
  const __m256i even_column = _mm256_set1_epi64x(0x01010101);
  const uint8_t* packed = matrix.PanelCodes(panel);
  const uint8_t* rows = a.Row(row);
  const int64_t units = matrix.Units();
  Sums<kRows> sums;
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    Magnitudes magnitudes;
    magnitudes.Load(matrix.table, matrix.GroupSelectors(panel, first / kGroupUnits));
    PrefetchGroup<4>(packed + first * 32);
    const int64_t last = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < last; ++u) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + u * 32));
      const __m256i codes[2] = {_mm256_slli_epi16(bytes, 1), _mm256_srli_epi16(bytes, 3)};
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i v = _mm256_sub_epi8(_mm256_and_si256(codes[h], doubled), middle);
        const __m256i index = _mm256_xor_si256(_mm256_abs_epi8(v), even_column);
        const __m256i magnitude =
            _mm256_blend_epi32(_mm256_shuffle_epi8(magnitudes.of[h][0], index),
                               _mm256_shuffle_epi8(magnitudes.of[h][1], index), 0xcc);
        Unroll<kRows>([&](auto r) EF_INLINE {
          const __m256i x = Broadcast(rows + r * a.stride + u * kUnitDepth);
          const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, v));
          sums.of[r][h] = _mm256_add_epi32(sums.of[r][h], _mm256_madd_epi16(pairs, ones));
          Pin(sums.of[r][h]);
        });
      });
    }
  }
  sums.Store(acc, acc_stride);
}

}  // namespace
}  // namespace edgefold
