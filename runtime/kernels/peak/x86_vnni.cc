// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/peak/loops.h"

namespace edgefold {
namespace {

struct Vnni {
  static constexpr int kBytes = 64;
  static constexpr int kIntegerOperations = 128;
  using Floats = __m512;
  using Integers = __m512i;
  using Bytes = __m512i;
  static Floats Fma(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
  static Integers Multiply(Bytes a, Bytes b, Integers sum) {
    return _mm512_dpbusd_epi32(sum, a, b);
  }
  static Bytes Load(const uint8_t* at) { return _mm512_loadu_si512(at); }
  static Bytes Or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
};

}  // namespace

uint64_t peak_x86_vnni(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<Vnni>(loop, times, buffer, bytes);
}

}  // namespace edgefold
