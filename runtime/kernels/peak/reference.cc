// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels/peak/loops.h"

namespace edgefold {
namespace {

// Machine words: what the compiler makes of portable code.
struct Portable {
  static constexpr int kBytes = 8;
  static constexpr int kIntegerOperations = 2;
  struct Floats {
    float lanes[2];
  };
  using Integers = int64_t;
  using Bytes = int64_t;
  static Floats Fma(Floats a, Floats b, Floats sum) {
    return {{a.lanes[0] * b.lanes[0] + sum.lanes[0], a.lanes[1] * b.lanes[1] + sum.lanes[1]}};
  }
  static Integers Multiply(Bytes a, Bytes b, Integers sum) { return a * b + sum; }
  static Bytes Load(const uint8_t* at) {
    int64_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
  }
  static Bytes Or(Bytes a, Bytes b) { return a | b; }
};

}  // namespace

uint64_t peak_reference(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<Portable>(loop, times, buffer, bytes);
}

}  // namespace edgefold
