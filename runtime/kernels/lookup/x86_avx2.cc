// SPDX-License-Identifier: Apache-2.0
// A byte shuffle looks up 16 entries by the low four bits of an index and gives 0 where the index
// is negative. Step k of eight takes 16 from the index and adds, by exclusive or, what entry k of
// the low four bits differs by from entry k - 1: an index of 16 k + l ends at entry k of l, for it
// is negative from then on. Both halves of the table share the indices; bit 7 chooses.
#include <immintrin.h>

#include "base/unroll.h"
#include "kernels/lookup/lookup.h"

namespace edgefold {
namespace {

constexpr int64_t kBytes = 32;
constexpr int kSteps = 8;

struct Table {
  __m256i low[kSteps], high[kSteps];  // each, after the first, as what it differs by from the last

  explicit Table(const uint8_t* table) {
    Difference(table, low);
    Difference(table + 128, high);
  }

  static void Difference(const uint8_t* half, __m256i* steps) {
    __m256i last = _mm256_setzero_si256();
    for (int k = 0; k < kSteps; ++k) {
      const __m256i entries = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(half + 16 * k)));
      steps[k] = _mm256_xor_si256(entries, last);
      last = entries;
    }
  }

  void Look(const uint8_t* x, uint8_t* y) const {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    __m256i index = _mm256_and_si256(bytes, _mm256_set1_epi8(127));
    __m256i of_low = _mm256_shuffle_epi8(low[0], index);
    __m256i of_high = _mm256_shuffle_epi8(high[0], index);
    Unroll<kSteps - 1>([&](auto k) EF_INLINE {
      index = _mm256_sub_epi8(index, _mm256_set1_epi8(16));
      of_low = _mm256_xor_si256(of_low, _mm256_shuffle_epi8(low[k + 1], index));
      of_high = _mm256_xor_si256(of_high, _mm256_shuffle_epi8(high[k + 1], index));
    });
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm256_blendv_epi8(of_low, of_high, bytes));
  }
};

}  // namespace

void lookup_x86_avx2(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y) {
  if (count < kBytes) {
    for (int64_t i = 0; i < count; ++i) y[i] = table[x[i]];
    return;
  }
  const Table entries(table);
  int64_t i = 0;
  for (; i + kBytes <= count; i += kBytes) entries.Look(x + i, y + i);
  if (i < count) entries.Look(x + count - kBytes, y + count - kBytes);  // some bytes once more
}

}  // namespace edgefold
