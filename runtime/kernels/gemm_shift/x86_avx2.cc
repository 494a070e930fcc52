// SPDX-License-Identifier: Apache-2.0
// 16-bit sums within a group of 32 k, one multiplication by the group's multiplier after it: half
// the instructions of an int8 product.
#include "base/x86_avx2.h"

#include <immintrin.h>

#include "base/unroll.h"
#include "base/x86_avx2_codes.h"
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 6;
constexpr int64_t kGroupBytes = kGroupUnits * kUnitCodes;

// Codes of whole groups, [groups][8 units][64], then multipliers, [groups][16] pairs of int16.
// int8 rows take the codes as unsigned bytes, uint8 rows the signed levels code - zero.
template <int kBits, bool kLevels>
void Decode(const PackedMatrix& matrix, int64_t panel, int8_t* codes) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(matrix.lowest));
  const __m256i zero = _mm256_set1_epi8(static_cast<char>(matrix.zero));
  const __m128i steps = _mm_loadu_si128(reinterpret_cast<const __m128i*>(matrix.multiplier));
  const uint8_t* packed = matrix.PanelCodes(panel);
  const int64_t units = matrix.Units();
  const int64_t groups = matrix.Groups();
  for (int64_t u = 0; u < units; ++u) {
    __m256i halves[2];
    LoadCodes<kBits>(packed + u * 8 * kBits, halves);
    Unroll<2>([&](auto h) EF_INLINE {
      __m256i level = _mm256_max_epu8(halves[h], lowest);
      if constexpr (kLevels) level = _mm256_sub_epi8(level, zero);
      StoreBytes(codes + u * kUnitCodes + h * 32, level);
    });
  }
  for (int64_t i = units * kUnitCodes; i < groups * kGroupBytes; i += 32) {
    StoreBytes(codes + i, _mm256_setzero_si256());
  }
  __m256i* multipliers = reinterpret_cast<__m256i*>(codes + groups * kGroupBytes);
  for (int64_t g = 0; g < groups; ++g) {
    LoadMultipliers(steps, matrix.GroupSelectors(panel, g), multipliers + g * 2);
  }
}

template <bool kUnsigned>
inline __m256i Pairs(__m256i weights, __m256i activations) {
  return kUnsigned ? _mm256_maddubs_epi16(activations, weights)
                   : _mm256_maddubs_epi16(weights, activations);
}

// acc is int32 in memory: it is touched once in 8 units, and registers hold the 16-bit sums.
template <int kRows, bool kUnsigned>
void Tile(const PackedMatrix& matrix, const Activations& a, int64_t row, const int8_t* codes,
          int32_t* acc, int64_t acc_stride) {
  const int64_t groups = matrix.Groups();
  const __m256i* multipliers = reinterpret_cast<const __m256i*>(codes + groups * kGroupBytes);
  const __m256i minus_zero = _mm256_set1_epi16(static_cast<int16_t>(-matrix.zero));
  const uint8_t* rows = a.Row(row);
  for (int64_t g = 0; g < groups; ++g) {
    __m256i sums[kRows][2];
    Unroll<kRows>([&](auto r) EF_INLINE {
      // - zero * sum of a, so that the sum of a * code becomes that of a * (code - zero).
      __m256i start = _mm256_setzero_si256();
      if constexpr (!kUnsigned) {
        start = _mm256_mullo_epi16(Broadcast(a.PairSums(row + r) + g * 2), minus_zero);
      }
      sums[r][0] = sums[r][1] = start;
    });
    const __m256i* group = reinterpret_cast<const __m256i*>(codes + g * kGroupBytes);
    const uint8_t* x_group = rows + g * kGroupDepth;
    Unroll<kGroupUnits>([&](auto u) EF_INLINE {
      const __m256i w[2] = {_mm256_load_si256(group + u * 2), _mm256_load_si256(group + u * 2 + 1)};
      Unroll<kRows>([&](auto r) EF_INLINE {
        const __m256i x = Broadcast(x_group + r * a.stride + u * kUnitDepth);
        Unroll<2>([&](auto h) EF_INLINE {
          sums[r][h] = _mm256_add_epi16(sums[r][h], Pairs<kUnsigned>(w[h], x));
          Pin(sums[r][h]);
        });
      });
    });
    Unroll<kRows>([&](auto r) EF_INLINE {
      Unroll<2>([&](auto h) EF_INLINE {
        __m256i* out = reinterpret_cast<__m256i*>(acc + r * acc_stride + h * 8);
        const __m256i scaled = _mm256_madd_epi16(sums[r][h], multipliers[g * 2 + h]);
        const __m256i before = g == 0 ? _mm256_setzero_si256() : _mm256_loadu_si256(out);
        _mm256_storeu_si256(out, _mm256_add_epi32(before, scaled));
      });
    });
  }
}

using TileFunction = void(const PackedMatrix&, const Activations&, int64_t, const int8_t*, int32_t*,
                          int64_t);
constexpr TileFunction* kTiles[2][kTileRows] = {
    {Tile<1, false>, Tile<2, false>, Tile<3, false>, Tile<4, false>, Tile<5, false>,
     Tile<6, false>},
    {Tile<1, true>, Tile<2, true>, Tile<3, true>, Tile<4, true>, Tile<5, true>, Tile<6, true>}};

}  // namespace

void gemm_shift_x86_avx2(const PackedMatrix& matrix, int64_t panel, const Activations& a,
                         void* scratch, int32_t* acc, int64_t acc_stride) {
  int8_t* codes = static_cast<int8_t*>(scratch);
  using DecodeFunction = void(const PackedMatrix&, int64_t, int8_t*);
  static constexpr DecodeFunction* kDecode[][2] = {{Decode<2, false>, Decode<2, true>},
                                                   {Decode<3, false>, Decode<3, true>},
                                                   {Decode<4, false>, Decode<4, true>}};
  kDecode[matrix.bits - 2][a.is_unsigned](matrix, panel, codes);
  for (int64_t m = 0; m < a.rows; m += kTileRows) {
    const int64_t rows = a.rows - m < kTileRows ? a.rows - m : kTileRows;
    kTiles[a.is_unsigned][rows - 1](matrix, a, m, codes, acc + m * acc_stride, acc_stride);
  }
}

}  // namespace edgefold
