// SPDX-License-Identifier: Apache-2.0
// Tiles of six rows: their twelve sums, two registers of weights, a pair of codes and a product
// fill the register file, and a load feeds three multiplications.
#include "base/x86_avx2.h"

#include <immintrin.h>

#include <algorithm>

#include "base/unroll.h"
#include "kernels/gemm_wide/gemm_wide.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 6;

inline __m256i Load(const int16_t* values) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
}

template <int kRows>
void Tile(const int16_t* codes, int64_t stride, const int16_t* panel, int64_t pairs, int32_t* acc,
          int64_t acc_stride) {
  __m256i sums[kRows][2];
  Unroll<kRows>([&](auto r) EF_INLINE { sums[r][0] = sums[r][1] = _mm256_setzero_si256(); });
  for (int64_t i = 0; i < pairs; ++i, panel += 2 * kPanelColumns) {
    const __m256i w[2] = {Load(panel), Load(panel + kPanelColumns)};
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m256i pair = Broadcast(codes + r * stride + i * 2);
      Unroll<2>([&](auto h) EF_INLINE {
        sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(w[h], pair));
        Pin(sums[r][h]);
      });
    });
  }
  Unroll<kRows>([&](auto r) EF_INLINE {
    Unroll<2>([&](auto h) EF_INLINE {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * acc_stride + h * 8), sums[r][h]);
    });
  });
}

using TileFunction = void(const int16_t*, int64_t, const int16_t*, int64_t, int32_t*, int64_t);
constexpr TileFunction* kTiles[] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>, Tile<5>, Tile<6>};

}  // namespace

void gemm_wide_x86_avx2(const GemmWideArguments& g) {
  for (int64_t p = 0; p < g.panel_count; ++p) {
    const int16_t* panel = g.panels + p * g.pairs * 2 * kPanelColumns;
    for (int64_t m = 0; m < g.rows; m += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, g.rows - m);
      kTiles[rows - 1](g.codes + m * g.stride, g.stride, panel, g.pairs,
                       g.acc + m * g.acc_stride + p * kPanelColumns, g.acc_stride);
    }
  }
}

}  // namespace edgefold
