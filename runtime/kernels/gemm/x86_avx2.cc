// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx2.h"

#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/gemm/gemm.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 4;

inline void Store(int32_t* acc, __m256i sums) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc), sums);
}

template <int kRows>
inline void StoreTile(const __m256i (&sums)[kRows][2], int32_t* acc, int64_t acc_stride) {
  Unroll<kRows>([&](auto r) EF_INLINE {
    Unroll<2>([&](auto h) EF_INLINE { Store(acc + r * acc_stride + h * 8, sums[r][h]); });
  });
}

// int8 rows: |w| * (a with the sign of w) in unsigned times signed bytes. A pair sum is at most
// 2 * 127 * 127 = 32258, so the instruction's saturation never acts.
template <int kRows>
void SignedTile(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t units, int32_t* acc,
                int64_t acc_stride) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kRows][2];
  Unroll<kRows>([&](auto r) EF_INLINE { sums[r][0] = sums[r][1] = _mm256_setzero_si256(); });
  for (int64_t u = 0; u < units; ++u) {
    const __m256i* unit = reinterpret_cast<const __m256i*>(panel + u * kUnitCodes);
    const __m256i w[2] = {_mm256_loadu_si256(unit), _mm256_loadu_si256(unit + 1)};
    const __m256i magnitude[2] = {_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])};
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m256i codes = Broadcast(a + r * stride + u * kUnitDepth);
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(codes, w[h]));
        sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(pairs, ones));
        Pin(sums[r][h]);
      });
    });
  }
  StoreTile<kRows>(sums, acc, acc_stride);
}

// uint8 rows: both sides widened to 16 bits, even and odd k apart.
template <int kRows>
void UnsignedTile(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t units,
                  int32_t* acc, int64_t acc_stride) {
  const __m256i low = _mm256_set1_epi16(0x00ff);
  __m256i sums[kRows][2];
  Unroll<kRows>([&](auto r) EF_INLINE { sums[r][0] = sums[r][1] = _mm256_setzero_si256(); });
  for (int64_t u = 0; u < units; ++u) {
    const __m256i* unit = reinterpret_cast<const __m256i*>(panel + u * kUnitCodes);
    __m256i even[2];
    __m256i odd[2];
    Unroll<2>([&](auto h) EF_INLINE {
      const __m256i w = _mm256_loadu_si256(unit + h);
      even[h] = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
      odd[h] = _mm256_srai_epi16(w, 8);
    });
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m256i codes = Broadcast(a + r * stride + u * kUnitDepth);
      const __m256i codes_even = _mm256_and_si256(codes, low);
      const __m256i codes_odd = _mm256_srli_epi16(codes, 8);
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i first = _mm256_madd_epi16(even[h], codes_even);
        const __m256i second = _mm256_madd_epi16(odd[h], codes_odd);
        sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_add_epi32(first, second));
        Pin(sums[r][h]);
      });
    });
  }
  StoreTile<kRows>(sums, acc, acc_stride);
}

using Tile = void(const uint8_t*, int64_t, const int8_t*, int64_t, int32_t*, int64_t);
constexpr Tile* kSigned[] = {SignedTile<1>, SignedTile<2>, SignedTile<3>, SignedTile<4>};
constexpr Tile* kUnsigned[] = {UnsignedTile<1>, UnsignedTile<2>, UnsignedTile<3>, UnsignedTile<4>};

}  // namespace

void gemm_x86_avx2(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                   int32_t* acc, int64_t acc_stride) {
  Tile* const* tiles = a.is_unsigned ? kUnsigned : kSigned;
  for (int64_t p = 0; p < panel_count; ++p) {
    const int8_t* panel = panels + p * units * kUnitCodes;
    for (int64_t m = 0; m < a.rows; m += kTileRows) {
      const int64_t rows = a.rows - m < kTileRows ? a.rows - m : kTileRows;
      int32_t* out = acc + m * acc_stride + p * kPanelColumns;
      tiles[rows - 1](a.Row(m), a.stride, panel, units, out, acc_stride);
    }
  }
}

}  // namespace edgefold
