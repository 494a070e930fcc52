// SPDX-License-Identifier: Apache-2.0
// What the arm64 variants of `peak` share; each adds its own Multiply.
#pragma once

#include <arm_neon.h>

#include "kernels/peak/loops.h"

namespace edgefold {

struct NeonRegisters {
  static constexpr int kBytes = 16;
  using Floats = float32x4_t;
  using Integers = int32x4_t;
  using Bytes = int8x16_t;
  static Floats Fma(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
  static Bytes Load(const uint8_t* at) { return vreinterpretq_s8_u8(vld1q_u8(at)); }
  static Bytes Or(Bytes a, Bytes b) { return vorrq_s8(a, b); }
};

}  // namespace edgefold
