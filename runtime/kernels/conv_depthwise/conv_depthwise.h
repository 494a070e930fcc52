// SPDX-License-Identifier: Apache-2.0
// Panels of sixteen channels that are each convolved with their own taps.
//
//   acc[i][16 * p + c] = sum over t < taps of
//       x[p * panel_step + i * step + offsets[t] + c] * weights[p][t / 2][c][t % 2]     int32
//
// for pixels i, panels p and channels c = 0..15. x holds uint8, or int8 in [-127, 127]; weights are
// in
// [-127, 127]; with an odd number of taps the last weights[.][.][c][1] are 0. Exact, taps <= 65536.
// Nothing overlaps; no pointer needs alignment. 16 bytes are read at every offset.
#pragma once

#include <cstdint>

#include "base/kernel.h"

namespace edgefold {

struct ConvDepthwiseArguments {
  const uint8_t* x;
  bool is_unsigned;
  int64_t step;            // bytes from one output pixel's window to the next one's
  const int64_t* offsets;  // [taps]: bytes from a window's start
  int64_t taps;            // >= 1
  const int16_t* weights;  // [panels][ceil(taps / 2)][16][2]
  int64_t pixels;
  int32_t* acc;        // [pixels][acc_stride]
  int64_t acc_stride;  // >= 16 * panels
  int64_t panels;
  int64_t panel_step;  // bytes from a panel's x to the next one's

  // Panel p alone.
  ConvDepthwiseArguments Panel(int64_t p) const {
    ConvDepthwiseArguments one = *this;
    one.x += p * panel_step;
    one.weights += p * ((taps + 1) / 2 * 32);
    one.acc += p * 16;
    one.panels = 1;
    return one;
  }
};

using ConvDepthwiseKernel = void(const ConvDepthwiseArguments& arguments);

#define EF_KERNEL(isa, symbol) ConvDepthwiseKernel symbol;
#include "kernels/conv_depthwise/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ConvDepthwiseKernel> ConvDepthwiseKernels();

}  // namespace edgefold
