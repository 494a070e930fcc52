// SPDX-License-Identifier: Apache-2.0
// vpdpbusd multiplies unsigned by signed bytes. int8 rows: the weights get 128 added (their sign
// bit flipped) and 128 * sum of the row is taken off at the end. uint8 rows need nothing.
#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/gemm/gemm.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 8;

inline __m512i Broadcast(const uint8_t* four) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, 4);
  return _mm512_set1_epi32(bytes);
}

template <int kRows, int kPanels, bool kUnsigned>
void Tile(const Activations& a, int64_t row, const int8_t* panels, int64_t units, int32_t* acc,
          int64_t acc_stride) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const uint8_t* rows = a.Row(row);
  __m512i sums[kRows][kPanels];
  Unroll<kRows>([&](auto r) EF_INLINE {
    Unroll<kPanels>([&](auto p) EF_INLINE { sums[r][p] = _mm512_setzero_si512(); });
  });
  for (int64_t u = 0; u < units; ++u) {
    __m512i w[kPanels];
    Unroll<kPanels>([&](auto p) EF_INLINE {
      w[p] = _mm512_loadu_si512(panels + (p * units + u) * kUnitCodes);
      if constexpr (!kUnsigned) w[p] = _mm512_xor_si512(w[p], sign);
    });
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m512i x = Broadcast(rows + r * a.stride + u * kUnitDepth);
      Unroll<kPanels>([&](auto p) EF_INLINE {
        sums[r][p] = kUnsigned ? _mm512_dpbusd_epi32(sums[r][p], x, w[p])
                               : _mm512_dpbusd_epi32(sums[r][p], w[p], x);
      });
    });
  }
  Unroll<kRows>([&](auto r) EF_INLINE {
    const __m512i offset = _mm512_set1_epi32(kUnsigned ? 0 : a.sums[row + r] * 128);
    Unroll<kPanels>([&](auto p) EF_INLINE {
      _mm512_storeu_si512(acc + r * acc_stride + p * kPanelColumns,
                          _mm512_sub_epi32(sums[r][p], offset));
    });
  });
}

using TileFunction = void(const Activations&, int64_t, const int8_t*, int64_t, int32_t*, int64_t);

// clang-format off: its versions disagree about these braces
#define EF_ROWS(panels, is_unsigned)                                                              \
  {                                                                                               \
    Tile<1, panels, is_unsigned>, Tile<2, panels, is_unsigned>, Tile<3, panels, is_unsigned>,     \
        Tile<4, panels, is_unsigned>, Tile<5, panels, is_unsigned>, Tile<6, panels, is_unsigned>, \
        Tile<7, panels, is_unsigned>, Tile<8, panels, is_unsigned>                                \
  }
// clang-format on
constexpr TileFunction* kTiles[2][2][kTileRows] = {{EF_ROWS(1, false), EF_ROWS(2, false)},
                                                   {EF_ROWS(1, true), EF_ROWS(2, true)}};
#undef EF_ROWS

}  // namespace

void gemm_x86_vnni(const Activations& a, const int8_t* panels, int64_t panel_count, int64_t units,
                   int32_t* acc, int64_t acc_stride) {
  for (int64_t p = 0; p < panel_count; p += 2) {
    const int64_t pair = panel_count - p < 2 ? 0 : 1;
    for (int64_t m = 0; m < a.rows; m += kTileRows) {
      const int64_t rows = a.rows - m < kTileRows ? a.rows - m : kTileRows;
      int32_t* out = acc + m * acc_stride + p * kPanelColumns;
      kTiles[a.is_unsigned][pair][rows - 1](a, m, panels + p * units * kUnitCodes, units, out,
                                            acc_stride);
    }
  }
}

}  // namespace edgefold
