// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/softmax/lanes.h"

namespace edgefold {
namespace {

// GCC takes the lanes of a conversion to bytes one by one.
struct PackedBytes {
  static void Store(Formulas<8>::Ints codes, uint8_t* out) {
    const __m256i all = (__m256i)codes;
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storeu_si64(out, _mm_packus_epi16(words, words));
  }
};

}  // namespace

void softmax_x86_avx2(const SoftmaxArguments& s) { Softmax<8, PackedBytes>(s); }

}  // namespace edgefold
