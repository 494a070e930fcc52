// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak/arm_neon.h"

namespace edgefold {
namespace {

struct I8mm : NeonRegisters {
  static constexpr int kIntegerOperations = 64;
  static Integers Multiply(Bytes a, Bytes b, Integers sum) { return vmmlaq_s32(sum, a, b); }
};

}  // namespace

uint64_t peak_arm_i8mm(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<I8mm>(loop, times, buffer, bytes);
}

}  // namespace edgefold
