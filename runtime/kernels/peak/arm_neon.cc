// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak/arm_neon.h"

namespace edgefold {
namespace {

struct Neon : NeonRegisters {
  static constexpr int kIntegerOperations = 32;
  static Integers Multiply(Bytes a, Bytes b, Integers sum) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    return vpadalq_s16(sum, vmlal_high_s8(low, a, b));
  }
};

}  // namespace

uint64_t peak_arm_neon(PeakLoop loop, int64_t times, const uint8_t* buffer, int64_t bytes) {
  return Peak<Neon>(loop, times, buffer, bytes);
}

}  // namespace edgefold
