// SPDX-License-Identifier: Apache-2.0
// One panel of a factored matrix times kRows int8 rows, decoded in registers. The sums and their
// bounds are those of gemm_shift. Included by x86_avx2.cc alone.
#pragma once

#include <immintrin.h>

#include "base/x86_avx2_factors.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemv/x86_avx2_narrow.h"
#include "kernels/gemv/x86_avx2_panels.h"

namespace edgefold {
namespace {

template <int kBits, int kShapes, int kRows, int kRun>
struct FactoredPanel {
  // Codes of fewer bits take more instructions one unit at a time.
  static constexpr bool kPaired = kBits < 4 && kShapes == 1;

  const PackedMatrix& matrix;
  const Activations& a;
  int64_t row;
  int bias;
  FactoredLevels<kShapes> decoder;
  Sums<kRows> sums;
  __m256i factors[2];

  FactoredPanel(const PackedMatrix& m, const Activations& activations, int64_t first_row)
      : matrix(m), a(activations), row(first_row), bias(m.factors.top), decoder(m.factors, bias) {}

  // -bias * the sums of a row's codes over run `run` of group `group`.
  inline EF_INLINE __m256i Start(int64_t r, int64_t group, int run) const {
    const int16_t* halves = a.PairSums(r) + group * 4;
    const __m256i of_run = kRun == 8 ? _mm256_add_epi16(Broadcast(halves), Broadcast(halves + 2))
                                     : Broadcast(halves + run * 2);
    return _mm256_mullo_epi16(of_run, _mm256_set1_epi16(static_cast<int16_t>(-bias)));
  }

  // Units first .. last - 1 <= first + kRun of a group; kWhole: exactly kRun.
  template <bool kWhole>
  inline EF_INLINE void Run(const uint8_t* packed, int64_t group, int run, int64_t first,
                            int64_t last) {
    const uint8_t* x = a.Row(row);
    __m256i part[kRows][2];
    Unroll<kRows>([&](auto r) EF_INLINE { part[r][0] = part[r][1] = Start(row + r, group, run); });
    const auto unit = [&](int64_t u) EF_INLINE {
      __m256i codes[2];
      LoadCodes<kBits>(packed + u * 8 * kBits, codes);
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i levels = decoder.Of(h, codes[h]);
        Unroll<kRows>([&](auto r) EF_INLINE {
          const __m256i four = Broadcast(x + r * a.stride + u * kUnitDepth);
          part[r][h] = _mm256_add_epi16(part[r][h], _mm256_maddubs_epi16(levels, four));
          Pin(part[r][h]);
        });
      });
    };
    if constexpr (kWhole) {
      Unroll<kRun>([&](auto u) EF_INLINE { unit(first + u); });
    } else {
      for (int64_t u = first; u < last; ++u) unit(u);
    }
    Unroll<kRows>([&](auto r) EF_INLINE {
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i scaled = _mm256_madd_epi16(part[r][h], factors[h]);
        sums.of[r][h] = _mm256_add_epi32(sums.of[r][h], scaled);
      });
    });
  }

  // A whole group, two units at a time.
  inline EF_INLINE void PairedGroup(const PairLevels<kPaired ? kBits : 2>& levels,
                                    const uint8_t* packed, const uint8_t* x, int64_t group) {
    __m256i part[kRows][4];
    Unroll<kRows * 4>([&](auto i) EF_INLINE { part[i / 4][i % 4] = _mm256_setzero_si256(); });
    Unroll<kGroupUnits / 2>([&](auto pair) EF_INLINE {
      __m256i four[4];
      levels.Of(packed + pair * 2 * 8 * kBits, four);
      Unroll<kRows>([&](auto r) EF_INLINE {
        const __m256i codes = BroadcastPair(x + r * a.stride + pair * 2 * kUnitDepth);
        Unroll<4>([&](auto f) EF_INLINE {
          part[r][f] = _mm256_add_epi16(part[r][f], _mm256_maddubs_epi16(four[f], codes));
          Pin(part[r][f]);
        });
      });
    });
    Unroll<kRows>([&](auto r) EF_INLINE {
      const __m256i start = Start(row + r, group, 0);
      Unroll<2>([&](auto h) EF_INLINE {
        const __m256i sum = _mm256_add_epi16(start, AddLanes(part[r][2 * h], part[r][2 * h + 1]));
        const __m256i scaled = _mm256_madd_epi16(sum, factors[h]);
        sums.of[r][h] = _mm256_add_epi32(sums.of[r][h], scaled);
      });
    });
  }

  inline EF_INLINE void AllGroups(int64_t panel) {
    const uint8_t* packed = matrix.PanelCodes(panel);
    const int64_t units = matrix.Units();
    const uint8_t* x = a.Row(row);
    const PairLevels<kPaired ? kBits : 2> pairs(matrix.factors, bias);
    int64_t u = 0;
    int64_t group = 0;
    for (; u + kGroupUnits <= units; u += kGroupUnits, ++group) {
      decoder.Group(matrix.GroupSelectors(panel, group), factors);
      PrefetchGroup<kBits>(packed + u * 8 * kBits);
      if constexpr (kPaired) {
        PairedGroup(pairs, packed + u * 8 * kBits, x + u * kUnitDepth, group);
      } else {
        Unroll<kGroupUnits / kRun>(
            [&](auto run) EF_INLINE { Run<true>(packed, group, run, u + run * kRun, 0); });
      }
    }
    if (u == units) return;
    decoder.Group(matrix.GroupSelectors(panel, group), factors);
    for (int run = 0; u < units; ++run, u += kRun) {
      Run<false>(packed, group, run, u, u + kRun < units ? u + kRun : units);
    }
  }

  static void Multiply(const PackedMatrix& matrix, int64_t panel, const Activations& a, int64_t row,
                       int32_t* acc, int64_t acc_stride) {
    FactoredPanel product(matrix, a, row);
    product.AllGroups(panel);
    product.sums.Store(acc, acc_stride);
  }
};

}  // namespace
}  // namespace edgefold
