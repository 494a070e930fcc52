// SPDX-License-Identifier: Apache-2.0
// Squeeze and excitation between codes ("Squeeze-and-Excitation Networks", arXiv 1709.01507,
// section 3): the mean of every channel, and every channel times a factor of its own. The factors
// are what a few small layers make of the means; those see one pixel and are nobody's bottleneck.
//
// Codes have zero point 0 and lie channel-last, [batch][pixels][channels] bytes without gaps.
#pragma once

#include <cstdint>

#include "base/parallel.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {

struct CodePixels {
  const void* codes;
  bool is_unsigned;
  int64_t batch;
  int64_t pixels;  // of an image, at most kMaxMeanPixels where a mean is taken
  int64_t channels;
  float scale;
};

inline constexpr int64_t kMaxMeanPixels = int64_t{1} << 23;  // sums are int32

// y[b][c] = float(sum of codes) * (scale / float(pixels)), each operation rounded once.
void ChannelMeans(const CodePixels& x, float* y, const Parallel& parallel);

// y = clip(round_half_even(v / y_scale), low, high), v = float(code) * (scale * gate[b][c]), in
// float32, each operation rounded once. False when memory for the call could not be had.
bool GateChannels(const CodePixels& x, const float* gate, CodeRange range, float y_scale, void* y,
                  const Parallel& parallel);

}  // namespace edgefold
