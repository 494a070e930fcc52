// SPDX-License-Identifier: Apache-2.0
// 16-bit sums over a run of k, one multiplication by the group's factor after it: two instructions
// for 32 products where an int8 product takes four.
#include "base/x86_avx2.h"

#include <immintrin.h>

#include <algorithm>

#include "base/unroll.h"
#include "base/x86_avx2_codes.h"
#include "base/x86_avx2_factors.h"
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 4;

// Levels of a block that the tile before left: of every unit, columns 0..7 and 8..15.
struct Decoded {
  const __m256i* levels;

  // Those of units 2 * u and 2 * u + 1 of a block of kUnits.
  template <int kUnits>
  inline EF_INLINE void Load(int u, __m256i (&out)[2][2]) const {
    Unroll<4>([&](auto i) EF_INLINE { out[i / 2][i % 2] = _mm256_load_si256(levels + u * 4 + i); });
  }
};

// Levels decoded on the way, and left for the tiles that follow. Decoding takes slots that
// multiplications leave free, so the first tile costs little more than the others.
template <int kBits, int kShapes>
struct Packed {
  static constexpr int kUnitBytes = 8 * kBits;

  const BlockLevels<kBits, kShapes>& decoder;
  const uint8_t* codes;  // of the block: one side's units after the other's
  const uint8_t* next;   // of the next panel's: far enough for the hardware to have forgotten
  __m256i* levels;

  template <int kUnits>
  inline EF_INLINE void Load(int u, __m256i (&out)[2][2]) const {
    _mm_prefetch(reinterpret_cast<const char*>(next + u * 2 * kUnitBytes), _MM_HINT_T0);
    decoder.Units(codes + u * kUnitBytes, codes + (u + kUnits / 2) * kUnitBytes, out);
    Unroll<4>([&](auto i) EF_INLINE { _mm256_store_si256(levels + u * 4 + i, out[i / 2][i % 2]); });
  }
};

// Adds the products of a row's unit to its sums. Written out, since the order decides: as GCC 12
// schedules these instructions, adds and multiplications want the same pipes at the same time, and
// a tenth of the speed is lost.
template <bool kUnsigned>
inline EF_INLINE void AddProducts(const uint8_t* x, __m256i low, __m256i high, __m256i (&sums)[2]) {
  __m256i codes;
  __m256i pairs;
  const int32_t& four = *reinterpret_cast<const int32_t*>(x);
  if constexpr (kUnsigned) {
    asm("vpbroadcastd %[x], %[codes]\n\t"
        "vpmaddubsw %[low], %[codes], %[pairs]\n\t"
        "vpmaddubsw %[high], %[codes], %[codes]\n\t"
        "vpaddw %[pairs], %[s0], %[s0]\n\t"
        "vpaddw %[codes], %[s1], %[s1]"
        : [s0] "+x"(sums[0]), [s1] "+x"(sums[1]), [codes] "=&x"(codes), [pairs] "=&x"(pairs)
        : [low] "x"(low), [high] "x"(high), [x] "m"(four));
  } else {
    asm("vpbroadcastd %[x], %[codes]\n\t"
        "vpmaddubsw %[codes], %[low], %[pairs]\n\t"
        "vpmaddubsw %[codes], %[high], %[codes]\n\t"
        "vpaddw %[pairs], %[s0], %[s0]\n\t"
        "vpaddw %[codes], %[s1], %[s1]"
        : [s0] "+x"(sums[0]), [s1] "+x"(sums[1]), [codes] "=&x"(codes), [pairs] "=&x"(pairs)
        : [low] "x"(low), [high] "x"(high), [x] "m"(four));
  }
}

// A block of some rows, the sums so far, and where the new ones go.
struct Operands {
  const uint8_t* x;
  const int32_t* offsets;
  int32_t* sums;  // [rows][kPanelColumns]
  int32_t* to;
  int64_t to_stride;

  void Skip(int64_t rows, int64_t units, int64_t runs) {
    x += rows * units * kUnitDepth;
    offsets += rows * runs;
    sums += rows * kPanelColumns;
    to += rows * to_stride;
  }
};

// Runs of kRun units, or the whole block where that is shorter.
template <int kUnits, int kRun>
constexpr int kRunsOf = kUnits < kRun ? 1 : kUnits / kRun;

// int32 sums are in memory: they are touched once a run, and registers hold the 16-bit ones.
template <int kRows, int kUnits, int kRun, bool kUnsigned, typename Levels>
inline EF_INLINE void Tile(const Levels& levels, const __m256i (&factors)[2], const Operands& o) {
  constexpr int kRuns = kRunsOf<kUnits, kRun>;
  constexpr int kPairs = kUnits / kRuns / 2;  // of units, in a run
  Unroll<kRuns>([&](auto run) EF_INLINE {
    __m256i sums[kRows][2];
    Unroll<kRows>([&](auto r) EF_INLINE {
      sums[r][0] = sums[r][1] =
          kUnsigned ? _mm256_setzero_si256() : Broadcast(o.offsets + r * kRuns + run);
    });
    for (int u = run * kPairs; u < (run + 1) * kPairs; ++u) {
      __m256i w[2][2];
      levels.template Load<kUnits>(u, w);
      Unroll<2>([&](auto i) EF_INLINE {
        Unroll<kRows>([&](auto r) EF_INLINE {
          const uint8_t* x = o.x + (r * kUnits + u * 2 + i) * kUnitDepth;
          AddProducts<kUnsigned>(x, w[i][0], w[i][1], sums[r]);
        });
      });
    }
    Unroll<kRows>([&](auto r) EF_INLINE {
      int32_t* to = run == kRuns - 1 ? o.to + r * o.to_stride : o.sums + r * kPanelColumns;
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i scaled = _mm256_madd_epi16(sums[r][h], factors[h]);
        const __m256i* before =
            reinterpret_cast<const __m256i*>(o.sums + r * kPanelColumns + h * 8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + h * 8),
                            _mm256_add_epi32(_mm256_load_si256(before), scaled));
      });
    });
  });
}

// Fewer than kTileRows rows, or as many.
template <int kUnits, int kRun, bool kUnsigned, typename Levels>
inline EF_INLINE void AnyTile(int64_t rows, const Levels& levels, const __m256i (&factors)[2],
                              const Operands& o) {
  if (rows == 1) return Tile<1, kUnits, kRun, kUnsigned>(levels, factors, o);
  if (rows == 2) return Tile<2, kUnits, kRun, kUnsigned>(levels, factors, o);
  if (rows == 3) return Tile<3, kUnits, kRun, kUnsigned>(levels, factors, o);
  Tile<4, kUnits, kRun, kUnsigned>(levels, factors, o);
}

// The product of one block of a panel and all rows.
template <int kUnits, int kRun, bool kUnsigned, int kBits, int kShapes>
void MultiplyBlock(int64_t rows, const Packed<kBits, kShapes>& packed, const __m256i (&factors)[2],
                   Operands o) {
  constexpr int kRuns = kRunsOf<kUnits, kRun>;
  if constexpr (kShapes == 1) {
    const int64_t first = std::min<int64_t>(rows, kTileRows);
    AnyTile<kUnits, kRun, kUnsigned>(first, packed, factors, o);
    o.Skip(first, kUnits, kRuns);
    rows -= first;
  } else {  // two tables and two masks leave no registers for a tile's sums
    for (int u = 0; u < kUnits / 2; ++u) {
      __m256i unused[2][2];
      packed.template Load<kUnits>(u, unused);
    }
  }
  const Decoded decoded = {packed.levels};
  for (; rows > 0; rows -= kTileRows) {
    AnyTile<kUnits, kRun, kUnsigned>(std::min<int64_t>(rows, kTileRows), decoded, factors, o);
    o.Skip(kTileRows, kUnits, kRuns);
  }
}

template <int kBits, int kShapes, bool kUnsigned>
void Panels(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
            const ArrangedRows& rows, void* scratch, int32_t* acc, int64_t acc_stride) {
  constexpr int kRun = (kShapes == 1 ? 16 : 4) / (kUnsigned ? 2 : 1);
  BlockLevels<kBits, kShapes> decoder(matrix, rows.bias);
  __m256i* levels = static_cast<__m256i*>(scratch);
  int32_t* sums = reinterpret_cast<int32_t*>(levels + kBlockUnits * 2);
  const int64_t panel_bytes = matrix.Units() * matrix.UnitBytes();
  const int64_t block_bytes = rows.BlockBytes();
  const int64_t whole = rows.groups / kBlockGroups;
  const int64_t last = rows.Blocks() - 1;
  for (int64_t p = 0; p < panel_count; ++p) {
    std::fill_n(sums, rows.rows * kPanelColumns, 0);
    decoder.Panel(first_panel + p);
    const uint8_t* x = rows.Codes(0);
    for (int64_t b = 0; b <= last; ++b, x += block_bytes) {
      const int64_t units = b < whole ? kBlockUnits : kGroupUnits;
      const uint8_t* offsets = x + rows.rows * units * kUnitDepth;
      Operands o = {x, reinterpret_cast<const int32_t*>(offsets), sums, sums, kPanelColumns};
      if (b == last) {
        o.to = acc + p * kPanelColumns;
        o.to_stride = acc_stride;
      }
      uint8_t padded[kBlockUnits * 8 * kBits];
      __m256i factors[2];
      const uint8_t* codes = decoder.Next(units, padded, factors);
      const uint8_t* next = codes == padded ? codes : codes + panel_bytes;
      const Packed<kBits, kShapes> packed = {decoder, codes, next, levels};
      if (b < whole) {
        MultiplyBlock<kBlockUnits, kRun, kUnsigned>(rows.rows, packed, factors, o);
      } else {
        MultiplyBlock<kGroupUnits, kRun, kUnsigned>(rows.rows, packed, factors, o);
      }
    }
  }
}

}  // namespace

void gemm_shift_x86_avx2(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                         const ArrangedRows& rows, void* scratch, int32_t* acc,
                         int64_t acc_stride) {
  if (rows.rows == 0) return;
  static constexpr GemmShiftKernel* kPanels[][2][2] = {
      {{Panels<2, 2, false>, Panels<2, 2, true>}, {Panels<2, 1, false>, Panels<2, 1, true>}},
      {{Panels<3, 2, false>, Panels<3, 2, true>}, {Panels<3, 1, false>, Panels<3, 1, true>}},
      {{Panels<4, 2, false>, Panels<4, 2, true>}, {Panels<4, 1, false>, Panels<4, 1, true>}}};
  kPanels[matrix.bits - 2][FewLevels(matrix.factors)][rows.is_unsigned](
      matrix, first_panel, panel_count, rows, scratch, acc, acc_stride);
}

}  // namespace edgefold
