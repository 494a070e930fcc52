// SPDX-License-Identifier: Apache-2.0
// Tiles of six rows: their twelve sums, two registers of weights, a pair of codes and a product
// fill the register file, and a load feeds three multiplications.
#include "base/x86_avx2.h"

#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/gemm_wide/gemm_wide.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 6;

inline __m256i Load(const int16_t* values) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
}

// A panel and some rows, from `first` on.
template <int kRows>
void Tile(const GemmWideArguments& g, int64_t first, const int16_t* panel, int32_t* acc) {
  const int64_t stride = g.stride;
  __m256i sums[kRows][2];
  Unroll<kRows>([&](auto r) EF_INLINE { sums[r][0] = sums[r][1] = _mm256_setzero_si256(); });
  for (int64_t l = 0; l < g.lines; ++l) {
    const int16_t* codes = g.codes + first * stride + g.offsets[l];
    for (int64_t i = 0; i < g.pairs; ++i, codes += 2, panel += 2 * kPanelColumns) {
      const __m256i w[2] = {Load(panel), Load(panel + kPanelColumns)};
      Unroll<kRows>([&](auto r) EF_INLINE {
        const __m256i pair = Broadcast(codes + r * stride);
        Unroll<2>([&](auto h) EF_INLINE {
          sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(w[h], pair));
          Pin(sums[r][h]);
        });
      });
    }
  }
  Unroll<kRows>([&](auto r) EF_INLINE {
    int32_t* to = acc + (first + r) * g.acc_stride;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums[r][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), sums[r][1]);
  });
}

using TileFunction = void(const GemmWideArguments&, int64_t, const int16_t*, int32_t*);
constexpr TileFunction* kTiles[] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>, Tile<5>, Tile<6>};

}  // namespace

void gemm_wide_x86_avx2(const GemmWideArguments& g) {
  for (int64_t p = 0; p < g.panel_count; ++p) {
    const int16_t* panel = g.panels + p * g.lines * g.pairs * 2 * kPanelColumns;
    // Tiles of nearly equal height: one of two rows takes half the time of one of six.
    int64_t tiles = (g.rows + kTileRows - 1) / kTileRows;
    for (int64_t m = 0; m < g.rows; --tiles) {
      const int64_t rows = (g.rows - m + tiles - 1) / tiles;
      kTiles[rows - 1](g, m, panel, g.acc + p * kPanelColumns);
      m += rows;
    }
  }
}

}  // namespace edgefold
