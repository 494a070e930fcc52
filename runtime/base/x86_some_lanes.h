// SPDX-License-Identifier: Apache-2.0
// some_lanes.h by masks: a copy of a few bytes is a call, which costs as much as several vectors.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace edgefold {
namespace {

struct Avx2SomeLanes {
  typedef float Floats __attribute__((vector_size(32)));

  static __m256i Mask(int64_t count) {
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), places);
  }
  static Floats Load(const float* x, int64_t count, float others) {
    const __m256i mask = Mask(count);
    return (Floats)_mm256_blendv_ps(_mm256_set1_ps(others), _mm256_maskload_ps(x, mask),
                                    _mm256_castsi256_ps(mask));
  }
  static void Store(Floats value, float* x, int64_t count) {
    _mm256_maskstore_ps(x, Mask(count), (__m256)value);
  }
};

#if defined(__AVX512F__)
struct Avx512SomeLanes {
  typedef float Floats __attribute__((vector_size(64)));

  static __mmask16 Mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Floats Load(const float* x, int64_t count, float others) {
    return (Floats)_mm512_mask_loadu_ps(_mm512_set1_ps(others), Mask(count), x);
  }
  static void Store(Floats value, float* x, int64_t count) {
    _mm512_mask_storeu_ps(x, Mask(count), (__m512)value);
  }
};
#endif

}  // namespace
}  // namespace edgefold
