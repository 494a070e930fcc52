// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/peak/loops.h"

namespace edgefold {
namespace {

struct Avx2 {
  static constexpr int kBytes = 32;
  static constexpr int kIntegerOperations = 64;
  using Floats = __m256;
  using Integers = __m256i;
  using Bytes = __m256i;
  static Floats Fma(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
  static Integers Multiply(Bytes a, Bytes b, Integers sum) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
  }
  static Bytes Load(const uint8_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  static Bytes Or(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
};

}  // namespace

uint64_t peak_x86_avx2(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<Avx2>(loop, times, buffer, bytes);
}

}  // namespace edgefold
