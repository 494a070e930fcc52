// SPDX-License-Identifier: Apache-2.0
// low_bytes.h for sixteen lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace edgefold {
namespace {

struct PackedBytes512 {
  typedef int32_t Ints __attribute__((vector_size(64)));

  static void Store(Ints codes, uint8_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8((__m512i)codes));
  }
};

}  // namespace
}  // namespace edgefold
