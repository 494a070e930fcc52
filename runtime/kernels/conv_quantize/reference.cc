// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/conv_quantize/conv_quantize.h"

namespace edgefold {
namespace {

int32_t Code(float value, int32_t low, int32_t high) {
  if (!(value > static_cast<float>(low))) return low;  // NaN too
  if (value > static_cast<float>(high)) return high;
  return static_cast<int32_t>(std::nearbyintf(value));
}

}  // namespace

void conv_quantize_reference(const ConvQuantizeArguments& q) {
  for (int64_t i = 0; i < q.pixels; ++i) {
    for (int64_t c = 0; c < q.channels; ++c) {
      const float step = q.steps == nullptr ? 1.0f : q.steps[c];
      const float value = q.x[c * q.channel_stride + i] / (q.scale * step);
      const int32_t code = Code(value, q.low, q.high) * static_cast<int32_t>(step);
      q.codes[i * q.pixel_stride + c] = static_cast<uint8_t>(code);
    }
  }
}

}  // namespace edgefold
