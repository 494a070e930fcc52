// SPDX-License-Identifier: Apache-2.0
// 16-bit sums over a run of k, one multiplication by the group's factor after it: two instructions
// for 32 products where an int8 product takes four.
#include "base/x86_avx2.h"

#include <immintrin.h>

#include "base/unroll.h"
#include "base/x86_avx2_codes.h"
#include "base/x86_avx2_factors.h"
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {
namespace {

constexpr int kTileRows = 6;
constexpr int64_t kGroupBytes = kGroupUnits * kUnitCodes;

// Some groups of one panel, decoded, and what the tiles of all rows share.
struct Block {
  int8_t* levels;    // [groups][8 units][64]
  __m256i* factors;  // [groups][2]: pairs of int16
  int32_t* offsets;  // [rows][offset_stride]: pairs of int16, one a run; null for uint8 rows
  int64_t offset_stride;
  int64_t first_group;
  int64_t groups;
};

template <int kBits, int kShapes>
void Decode(const PackedMatrix& matrix, int64_t panel, int bias, const Block& block) {
  FactoredLevels<kShapes> decoder(matrix.factors, bias);
  const uint8_t* packed = matrix.PanelCodes(panel);
  const int64_t units = matrix.Units();
  int8_t* out = block.levels;
  for (int64_t i = 0; i < block.groups; ++i) {
    const int64_t group = block.first_group + i;
    decoder.Group(matrix.GroupSelectors(panel, group), block.factors + i * 2);
    const uint8_t* unit = packed + group * kGroupUnits * 8 * kBits;
    const int64_t left = units - group * kGroupUnits;
    const auto decode = [&](int64_t u) EF_INLINE {
      __m256i codes[2];
      LoadCodes<kBits>(unit + u * 8 * kBits, codes);
      Unroll<2>([&](auto h) EF_INLINE {
        StoreBytes(out + u * kUnitCodes + h * 32, decoder.Of(h, codes[h]));
      });
    };
    if (left >= kGroupUnits) {
      Unroll<kGroupUnits>([&](auto u) EF_INLINE { decode(u); });
    } else {
      for (int64_t u = 0; u < left; ++u) decode(u);
    }
    out += (left < kGroupUnits ? left : kGroupUnits) * kUnitCodes;
  }
  // Beyond K the codes of a row are zero; the levels only have to be something.
  for (; out < block.levels + block.groups * kGroupBytes; out += 32) {
    StoreBytes(out, _mm256_setzero_si256());
  }
}

// Codes are read in bursts, between which the hardware forgets where it was: fetches those of the
// panel that comes next, while the tiles of this one run.
void Prefetch(const PackedMatrix& matrix, int64_t panel, const Block& block) {
  if (panel >= matrix.Panels()) return;
  const int64_t group_bytes = kGroupUnits * matrix.UnitBytes();
  const uint8_t* codes = matrix.PanelCodes(panel) + block.first_group * group_bytes;
  for (int64_t i = 0; i < block.groups * group_bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + i), _MM_HINT_T1);
  }
}

// -bias * the sums of a row's codes over each run, so that the sum of a * (level + bias) becomes
// that of a * level.
void FindOffsets(const Activations& a, int bias, int run, const Block& block) {
  const __m128i by = _mm_set1_epi16(static_cast<int16_t>(-bias));
  for (int64_t m = 0; m < a.rows; ++m) {
    const int16_t* sums = a.PairSums(m);
    int32_t* out = block.offsets + m * block.offset_stride;
    for (int64_t g = 0; g < a.groups; ++g) {
      __m128i halves = _mm_loadu_si64(sums + g * 4);
      if (run == 8) halves = _mm_add_epi16(halves, _mm_shuffle_epi32(halves, 0xB1));
      _mm_storeu_si64(out + g * 2, _mm_mullo_epi16(halves, by));
    }
  }
}

template <bool kUnsigned>
inline __m256i Pairs(__m256i levels, __m256i activations) {
  return kUnsigned ? _mm256_maddubs_epi16(activations, levels)
                   : _mm256_maddubs_epi16(levels, activations);
}

// The sums of one run. `start`: see FindOffsets; rows of x lie `stride` bytes apart.
template <int kRows, int kRun, bool kUnsigned>
inline EF_INLINE void Run(const __m256i* levels, const uint8_t* x, int64_t stride,
                          const int32_t* start, int64_t start_stride, __m256i (&sums)[kRows][2]) {
  Unroll<kRun>([&](auto u) EF_INLINE {
    const __m256i w[2] = {_mm256_load_si256(levels + u * 2), _mm256_load_si256(levels + u * 2 + 1)};
    Unroll<kRows>([&](auto r) EF_INLINE {
      if constexpr (u == 0 && !kUnsigned) {
        sums[r][0] = sums[r][1] = Broadcast(start + r * start_stride);
      }
      const __m256i codes = Broadcast(x + r * stride + u * kUnitDepth);
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i pairs = Pairs<kUnsigned>(w[h], codes);
        sums[r][h] = u == 0 && kUnsigned ? pairs : _mm256_add_epi16(sums[r][h], pairs);
        Pin(sums[r][h]);
      });
    });
  });
}

// acc is int32 in memory: it is touched once a run, and registers hold the 16-bit sums.
template <int kRows, int kRun, bool kUnsigned>
void Tile(const Block& block, const Activations& a, int64_t row, int32_t* acc, int64_t acc_stride) {
  const int64_t stride = a.stride;
  const int64_t start_stride = block.offset_stride;
  const uint8_t* x = a.Row(row) + block.first_group * kGroupDepth;
  const int32_t* start = block.offsets + row * start_stride + block.first_group * 2;
  const __m256i* levels = reinterpret_cast<const __m256i*>(block.levels);
  const __m256i* factors = block.factors;
  const __m256i* end = factors + block.groups * 2;
  for (; factors != end; factors += 2, start += 2) {
    Unroll<kGroupUnits / kRun>([&](auto run) EF_INLINE {
      __m256i sums[kRows][2];
      Run<kRows, kRun, kUnsigned>(levels, x, stride, start + run, start_stride, sums);
      Unroll<kRows>([&](auto r) EF_INLINE {
        Unroll<2>([&](auto h) EF_INLINE {
          __m256i* out = reinterpret_cast<__m256i*>(acc + r * acc_stride + h * 8);
          const __m256i scaled = _mm256_madd_epi16(sums[r][h], factors[h]);
          _mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), scaled));
        });
      });
      levels += kRun * 2;
      x += kRun * kUnitDepth;
    });
  }
}

using TileFunction = void(const Block&, const Activations&, int64_t, int32_t*, int64_t);

template <int kRun, bool kUnsigned>
void Rows(const Block& block, const Activations& a, int32_t* acc, int64_t acc_stride) {
  static constexpr TileFunction* kTiles[kTileRows] = {
      Tile<1, kRun, kUnsigned>, Tile<2, kRun, kUnsigned>, Tile<3, kRun, kUnsigned>,
      Tile<4, kRun, kUnsigned>, Tile<5, kRun, kUnsigned>, Tile<6, kRun, kUnsigned>};
  int64_t tiles = (a.rows + kTileRows - 1) / kTileRows;
  for (int64_t m = 0; tiles > 0; --tiles) {  // of nearly equal height: low ones are slow
    const int64_t rows = (a.rows - m + tiles - 1) / tiles;
    kTiles[rows - 1](block, a, m, acc + m * acc_stride, acc_stride);
    m += rows;
  }
}

void AllRows(const PackedMatrix& matrix, const Block& block, const Activations& a, int32_t* acc,
             int64_t acc_stride) {
  for (int64_t m = 0; block.first_group == 0 && m < a.rows; ++m) {
    __m256i* out = reinterpret_cast<__m256i*>(acc + m * acc_stride);
    _mm256_storeu_si256(out, _mm256_setzero_si256());
    _mm256_storeu_si256(out + 1, _mm256_setzero_si256());
  }
  const int run = RunUnits(matrix.factors, a.is_unsigned);
  using RowsFunction = void(const Block&, const Activations&, int32_t*, int64_t);
  RowsFunction* const rows = a.is_unsigned ? run == 8   ? Rows<8, true>
                                             : run == 4 ? Rows<4, true>
                                                        : Rows<2, true>
                             : run == 8    ? Rows<8, false>
                                           : Rows<4, false>;
  rows(block, a, acc, acc_stride);
}

}  // namespace

void gemm_shift_x86_avx2(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                         const Activations& a, void* scratch, int32_t* acc, int64_t acc_stride) {
  using DecodeFunction = void(const PackedMatrix&, int64_t, int, const Block&);
  static constexpr DecodeFunction* kDecode[][2] = {
      {Decode<2, 1>, Decode<2, 2>}, {Decode<3, 1>, Decode<3, 2>}, {Decode<4, 1>, Decode<4, 2>}};
  DecodeFunction* const decode = kDecode[matrix.bits - 2][matrix.factors.shapes - 1];
  const int64_t groups = matrix.Groups();
  Block block = {};
  block.levels = static_cast<int8_t*>(scratch);
  block.factors = reinterpret_cast<__m256i*>(block.levels + kShiftBlockGroups * kGroupBytes);
  block.offsets = reinterpret_cast<int32_t*>(block.factors + kShiftBlockGroups * 2);
  block.offset_stride = groups * 2;
  const int bias = a.is_unsigned ? 0 : matrix.factors.top;
  if (bias > 0) FindOffsets(a, bias, RunUnits(matrix.factors, false), block);
  for (; block.first_group < groups; block.first_group += kShiftBlockGroups) {
    const int64_t left = groups - block.first_group;
    block.groups = left < kShiftBlockGroups ? left : kShiftBlockGroups;
    for (int64_t p = 0; p < panel_count; ++p) {
      decode(matrix, first_panel + p, bias, block);
      Prefetch(matrix, first_panel + p + 1, block);
      AllRows(matrix, block, a, acc + p * kPanelColumns, acc_stride);
    }
  }
}

}  // namespace edgefold
