// SPDX-License-Identifier: Apache-2.0
// What the parts of one Conv::Run share. Included by the files of Conv only.
#pragma once

#include "base/rounding.h"
#include "ops/conv.h"

namespace edgefold {

// Bytes that kernels and copies may read past the last pixel.
inline constexpr int64_t kImageSlack = 64;

struct Conv::Call {
  const ConvInputs& inputs;
  const Parallel& parallel;
  int64_t element;      // bytes of an activation: 1 (codes) or 4 (float)
  int64_t pixel_bytes;  // from one pixel of `image` to the next
  int64_t image_bytes;  // with slack
  bool few;             // windows of an image: weights are decoded in registers, by gemv
  int8_t* panels;       // decoded weights, where the matrix product wants them
  int64_t* offsets;     // [taps] bytes from a window's start
  uint8_t* image;       // padded, channel-last
};

}  // namespace edgefold
