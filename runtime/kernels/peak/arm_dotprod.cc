// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak/arm_neon.h"

namespace edgefold {
namespace {

struct Dotprod : NeonRegisters {
  static constexpr int kIntegerOperations = 32;
  static Integers Multiply(Bytes a, Bytes b, Integers sum) { return vdotq_s32(sum, a, b); }
};

}  // namespace

uint64_t peak_arm_dotprod(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<Dotprod>(loop, times, buffer, bytes);
}

}  // namespace edgefold
