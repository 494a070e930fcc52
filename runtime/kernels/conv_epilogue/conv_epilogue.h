// SPDX-License-Identifier: Apache-2.0
// int32 sums of consecutive output pixels to a channel-first float image.
//
//   y[n][i] = float(acc[i][n]) * (x_scale * scales[n]) + bias[n]
//
// in float32, in this order, each operation rounded once (no fused multiply-add). Bit-equal.
// Nothing overlaps; no pointer needs alignment.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct ConvEpilogueArguments {
  const int32_t* acc;  // [pixels][acc_stride], acc_stride >= channels rounded up to 16
  int64_t acc_stride;
  int64_t pixels;
  int64_t channels;
  float x_scale;
  const float* scales;  // [channels]
  const float* bias;    // [channels], or one value where bias_is_scalar
  bool bias_is_scalar;
  float* y;  // [channels][channel_stride], `pixels` written of each
  int64_t channel_stride;
};

using ConvEpilogueKernel = void(const ConvEpilogueArguments& arguments);

#define EF_KERNEL(isa, symbol) ConvEpilogueKernel symbol;
#include "kernels/conv_epilogue/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ConvEpilogueKernel> ConvEpilogueKernels();

}  // namespace edgefold
