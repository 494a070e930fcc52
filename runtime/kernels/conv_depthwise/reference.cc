// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_depthwise/conv_depthwise.h"

namespace edgefold {

namespace {

void Panel(const ConvDepthwiseArguments& d) {
  for (int64_t i = 0; i < d.pixels; ++i) {
    for (int c = 0; c < 16; ++c) {
      int32_t sum = 0;
      for (int64_t t = 0; t < d.taps; ++t) {
        const uint8_t code = d.x[i * d.step + d.offsets[t] + c];
        const int32_t value = d.is_unsigned ? code : static_cast<int8_t>(code);
        sum += value * d.weights[t / 2 * 32 + c * 2 + t % 2];
      }
      d.acc[i * d.acc_stride + c] = sum;
    }
  }
}

}  // namespace

void conv_depthwise_reference(const ConvDepthwiseArguments& d) {
  for (int64_t p = 0; p < d.panels; ++p) Panel(d.Panel(p));
}

}  // namespace edgefold
