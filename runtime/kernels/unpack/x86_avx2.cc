// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "base/check.h"
#include "base/x86_avx2_codes.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {
namespace {

// Bytewise product, modulo 256: exact, since the results are int8.
inline __m256i Multiply(__m256i bytes, __m256i by) {
  const __m256i low = _mm256_set1_epi16(0x00ff);
  const __m256i even = _mm256_and_si256(_mm256_mullo_epi16(bytes, by), low);
  const __m256i odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, bytes), by);
  return _mm256_or_si256(even, odd);
}

template <int kBits>
void UnpackLinear(const PackedMatrix& matrix, const uint8_t* codes, const uint8_t* selectors,
                  int64_t units, int8_t* out) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(matrix.lowest));
  const __m256i zero = _mm256_set1_epi8(static_cast<char>(matrix.zero));
  const __m128i multipliers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(matrix.multiplier));
  const int64_t selector_step = matrix.tables == 1 ? 0 : 8;
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    __m256i by[2];
    LoadMultipliers(multipliers, selectors, by);
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < end; ++u) {
      __m256i halves[2];
      LoadCodes<kBits>(codes + u * 8 * kBits, halves);
      for (int h = 0; h < 2; ++h) {
        const __m256i level = _mm256_sub_epi8(_mm256_max_epu8(halves[h], lowest), zero);
        StoreBytes(out + u * kUnitCodes + h * 32, Multiply(level, by[h]));
      }
    }
    selectors += selector_step;
  }
}

template <int kBits>
void UnpackTables(const PackedMatrix& matrix, const uint8_t* codes, const uint8_t* selectors,
                  int64_t units, int8_t* out) {
  const int64_t selector_step = matrix.tables == 1 ? 0 : 8;
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    ColumnTables<kBits> tables;
    tables.Load(matrix, selectors);
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < end; ++u) {
      __m256i halves[2];
      LoadCodes<kBits>(codes + u * 8 * kBits, halves);
      for (int h = 0; h < 2; ++h) {
        StoreBytes(out + u * kUnitCodes + h * 32, tables.Look(h, halves[h]));
      }
    }
    selectors += selector_step;
  }
}

template <int kBits>
void Unpack(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
            int8_t* out) {
  const uint8_t* codes = matrix.PanelCodes(panel) + first_unit * 8 * kBits;
  const uint8_t* selectors = matrix.GroupSelectors(panel, first_unit / kGroupUnits);
  if (matrix.linear) {
    UnpackLinear<kBits>(matrix, codes, selectors, units, out);
  } else {
    UnpackTables<kBits>(matrix, codes, selectors, units, out);
  }
}

}  // namespace

void unpack_x86_avx2(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
                     int8_t* out) {
  EF_ASSUME(first_unit % kGroupUnits == 0);
  static constexpr UnpackKernel* kByBits[] = {Unpack<2>, Unpack<3>, Unpack<4>, Unpack<5>,
                                              Unpack<6>, Unpack<7>, Unpack<8>};
  kByBits[matrix.bits - 2](matrix, panel, first_unit, units, out);
}

}  // namespace edgefold
