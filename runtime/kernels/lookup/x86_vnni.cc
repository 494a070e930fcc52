// SPDX-License-Identifier: Apache-2.0
// A permutation reads 128 bytes of the table by the low seven bits; the highest bit chooses
// between its halves.
#include <immintrin.h>

#include "kernels/lookup/lookup.h"

namespace edgefold {
namespace {

constexpr int64_t kBytes = 64;

struct Table {
  __m512i quarters[4];

  explicit Table(const uint8_t* table)
      : quarters{_mm512_loadu_si512(table), _mm512_loadu_si512(table + kBytes),
                 _mm512_loadu_si512(table + 2 * kBytes), _mm512_loadu_si512(table + 3 * kBytes)} {}

  __m512i At(__m512i x) const {
    const __m512i low = _mm512_permutex2var_epi8(quarters[0], x, quarters[1]);
    const __m512i high = _mm512_permutex2var_epi8(quarters[2], x, quarters[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
  }
};

}  // namespace

void lookup_x86_vnni(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y) {
  const Table entries(table);
  int64_t i = 0;
  for (; i + kBytes <= count; i += kBytes) {
    _mm512_storeu_si512(y + i, entries.At(_mm512_loadu_si512(x + i)));
  }
  if (i == count) return;
  const __mmask64 left = (1ull << (count - i)) - 1;
  _mm512_mask_storeu_epi8(y + i, left, entries.At(_mm512_maskz_loadu_epi8(left, x + i)));
}

}  // namespace edgefold
