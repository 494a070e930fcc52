// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_epilogue/conv_epilogue.h"

namespace edgefold {

void conv_epilogue_reference(const ConvEpilogueArguments& e) {
  for (int64_t n = 0; n < e.channels; ++n) {
    const float scale = e.x_scale * e.scales[n];
    const float bias = e.bias[e.bias_is_scalar ? 0 : n];
    for (int64_t i = 0; i < e.pixels; ++i) {
      const float product = static_cast<float>(e.acc[i * e.acc_stride + n]) * scale;
      e.y[n * e.channel_stride + i] = product + bias;
    }
  }
}

}  // namespace edgefold
