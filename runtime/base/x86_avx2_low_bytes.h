// SPDX-License-Identifier: Apache-2.0
// low_bytes.h for eight lanes: GCC takes those of a conversion to bytes one by one.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace edgefold {
namespace {

struct PackedBytes {
  typedef int32_t Ints __attribute__((vector_size(32)));

  static void Store(Ints codes, uint8_t* out) {
    const __m256i all = (__m256i)(codes & 0xff);  // packing saturates
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storeu_si64(out, _mm_packus_epi16(words, words));
  }
};

}  // namespace
}  // namespace edgefold
