// SPDX-License-Identifier: Apache-2.0
// One row of a channel-first float image to channel-last 8-bit operands.
//
//   codes[i][c] = clip(round_half_even(x[c][i] / (scale * steps[c])), low, high) * steps[c]
//
// in float32, each operation rounded once; NaN becomes the code `low`. Only channels 0..channels -
// 1 of a pixel are written; nothing overlaps and no pointer needs alignment. Bit-equal.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct ConvQuantizeArguments {
  const float* x;  // [channels][channel_stride], `pixels` read of each
  int64_t channel_stride;
  int64_t channels;
  int64_t pixels;
  const float* steps;  // [channels], powers of two from 1 to 128; null: all are 1
  float scale;         // positive
  int32_t low;         // -127..0; codes are int8 when negative, else uint8
  int32_t high;        // 1..255; |low| and high times a step are at most 127 when low < 0, else 255
  uint8_t* codes;      // [pixels][pixel_stride], pixel_stride >= channels
  int64_t pixel_stride;
};

using ConvQuantizeKernel = void(const ConvQuantizeArguments& arguments);

#define EF_KERNEL(isa, symbol) ConvQuantizeKernel symbol;
#include "kernels/conv_quantize/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ConvQuantizeKernel> ConvQuantizeKernels();

}  // namespace edgefold
