// SPDX-License-Identifier: Apache-2.0
// Small AVX2 pieces that several kernels need. Only files compiled for AVX2 include this.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace edgefold {
namespace {

// Four bytes (activations of consecutive k, or two int16) in every 32-bit lane.
inline __m256i Broadcast(const void* four) {
  int32_t bytes;
  __builtin_memcpy(&bytes, four, 4);
  return _mm256_set1_epi32(bytes);
}

// Pins an accumulator to its register at this point. Without it GCC 12 hoists the products of a
// whole tile above the sums and spills them: a third of the speed is lost.
inline void Pin(__m256i& sums) { asm("" : "+x"(sums)); }

}  // namespace
}  // namespace edgefold
