// SPDX-License-Identifier: Apache-2.0
// Whole numbers in compiler vectors of any number of lanes, stored as their low bytes. Private to
// the file that includes it, since files differ in their compile flags.
#pragma once

#include <cstdint>

namespace edgefold {
namespace {

template <int kLanes>
struct LowBytes {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

  template <typename Ints>
  static void Store(Ints codes, uint8_t* out) {
    const Bytes bytes = __builtin_convertvector(codes, Bytes);
    __builtin_memcpy(out, &bytes, sizeof bytes);
  }
};

}  // namespace
}  // namespace edgefold
