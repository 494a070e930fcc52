// SPDX-License-Identifier: Apache-2.0
// Tiles of 16 sums, with four panels of four rows: eight loads feed 16 multiplications, of which
// the processor starts one a cycle. Tiles of 24 need fewer loads, but on Zen 4 the next one starts
// later where lines are short: 0.57 of the peak at 16 codes, and 0.65 with these. Tiles of three
// rows reach no more than 0.88 of it, so that what is left of four becomes tiles of five. vpdpbusd
// multiplies unsigned by signed bytes: int8 codes get 128 added as they are loaded (their sign bit
// flipped), and sums start from -128 times the sum of the weights.
#include <immintrin.h>

#include <array>
#include <utility>

#include "base/unroll.h"
#include "kernels/gemm_windows/gemm_windows.h"

namespace edgefold {
namespace {

constexpr int kMostPanels = 4;

constexpr int MostRows(int panels) { return panels == 1 ? 12 : 16 / panels; }

// How many tiles rows are cut into; with four panels some may have a row more than MostRows.
inline int64_t TileCount(int64_t rows, int panels) {
  const int most = MostRows(panels);
  const bool taller = panels == 4 && rows / most >= rows % most;
  return taller ? rows / most : (rows + most - 1) / most;
}

template <bool kUnsigned>
inline EF_INLINE __m512i Broadcast(const uint8_t* four) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, 4);
  const __m512i codes = _mm512_set1_epi32(bytes);
  return kUnsigned ? codes : _mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
}

// Keeps the sums of a tile in registers (x86_avx2.h tells why).
template <typename Register>
inline void Pin(Register& sums) {
  asm("" : "+v"(sums));
}

// kHalf: the last panel has no more than eight columns, which half of a register holds.
template <int kRows, int kPanels, bool kHalf, bool kUnsigned>
void Tile(const GemmWindowsArguments& g, int64_t row, int64_t panel) {
  constexpr int kWhole = kPanels - kHalf;
  const int64_t panel_bytes = g.lines * g.units * kUnitCodes;
  const int64_t step = g.step;
  const int8_t* weights = g.panels + panel * panel_bytes;
  __m512i sums[kRows][kPanels];
  __m256i halves[kRows];
  Unroll<kPanels>([&](auto p) EF_INLINE {
    __m512i start = _mm512_setzero_si512();
    if constexpr (!kUnsigned) {
      const __m512i total = _mm512_loadu_si512(g.totals + (panel + p) * kPanelColumns);
      start = _mm512_sub_epi32(start, _mm512_slli_epi32(total, 7));
    }
    Unroll<kRows>([&](auto r) EF_INLINE {
      sums[r][p] = start;
      if constexpr (p == kWhole) halves[r] = _mm512_castsi512_si256(start);
    });
  });
  const uint8_t* first = g.codes + row * step;
  const int64_t* offset = g.offsets;
  for (int64_t l = g.lines; l > 0; --l, ++offset) {
    const uint8_t* codes = first + *offset;
    for (int64_t u = g.units; u > 0; --u, codes += kUnitDepth, weights += kUnitCodes) {
      __m512i w[kPanels];
      __m256i half;
      Unroll<kWhole>([&](auto p)
                         EF_INLINE { w[p] = _mm512_loadu_si512(weights + p * panel_bytes); });
      if constexpr (kHalf) {
        half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + kWhole * panel_bytes));
      }
      Unroll<kRows>([&](auto r) EF_INLINE {
        const __m512i x = Broadcast<kUnsigned>(codes + r * step);
        Unroll<kWhole>([&](auto p) EF_INLINE {
          sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], x, w[p]);
          Pin(sums[r][p]);
        });
        if constexpr (kHalf) {
          halves[r] = _mm256_dpbusd_epi32(halves[r], _mm512_castsi512_si256(x), half);
          Pin(halves[r]);
        }
      });
    }
  }
  const int64_t acc_stride = g.acc_stride;
  int32_t* acc = g.acc + row * acc_stride + panel * kPanelColumns;
  Unroll<kRows>([&](auto r) EF_INLINE {
    if constexpr (kHalf) sums[r][kWhole] = _mm512_zextsi256_si512(halves[r]);
    Unroll<kPanels>([&](auto p)
                        EF_INLINE { _mm512_storeu_si512(acc + p * kPanelColumns, sums[r][p]); });
    acc += acc_stride;
  });
}

using TileFunction = void(const GemmWindowsArguments&, int64_t, int64_t);

template <int kPanels, bool kHalf, bool kUnsigned, int... kRows>
constexpr std::array<TileFunction*, sizeof...(kRows)> Tiles(std::integer_sequence<int, kRows...>) {
  return {Tile<kRows + 1, kPanels, kHalf, kUnsigned>...};
}

// All rows of kPanels panels, in tiles of nearly equal height: short ones load as many weights.
template <int kPanels, bool kHalf, bool kUnsigned>
void Panels(const GemmWindowsArguments& g, int64_t panel) {
  constexpr int kTallest = MostRows(kPanels) + (kPanels == 4);
  static constexpr auto kTiles =
      Tiles<kPanels, kHalf, kUnsigned>(std::make_integer_sequence<int, kTallest>());
  const int64_t tiles = TileCount(g.rows, kPanels);
  if (tiles == 0) return;
  const int64_t rows = g.rows / tiles;
  const int64_t tall = g.rows - rows * tiles;  // tiles of one row more
  int64_t row = 0;
  for (int64_t t = 0; t < tall; ++t, row += rows + 1) kTiles[rows](g, row, panel);
  for (; row < g.rows; row += rows) kTiles[rows - 1](g, row, panel);
}

template <bool kHalf, bool kUnsigned>
void LastPanels(const GemmWindowsArguments& g, int64_t panel) {
  const int64_t left = g.panel_count - panel;
  if (left == 4) return Panels<4, kHalf, kUnsigned>(g, panel);
  if (left == 3) return Panels<3, kHalf, kUnsigned>(g, panel);
  if (left == 2) return Panels<2, kHalf, kUnsigned>(g, panel);
  if (left == 1) Panels<1, kHalf, kUnsigned>(g, panel);
}

template <bool kUnsigned>
void Run(const GemmWindowsArguments& g) {
  int64_t p = 0;
  for (; g.panel_count - p > kMostPanels; p += kMostPanels) Panels<4, false, kUnsigned>(g, p);
  const bool half = g.columns - (g.panel_count - 1) * kPanelColumns <= kPanelColumns / 2;
  half ? LastPanels<true, kUnsigned>(g, p) : LastPanels<false, kUnsigned>(g, p);
}

}  // namespace

void gemm_windows_x86_vnni(const GemmWindowsArguments& g) {
  g.is_unsigned ? Run<true>(g) : Run<false>(g);
}

}  // namespace edgefold
