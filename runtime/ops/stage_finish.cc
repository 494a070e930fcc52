// SPDX-License-Identifier: Apache-2.0
#include "ops/stage_finish.h"

#include <algorithm>

#include "base/rounding.h"

namespace edgefold {
namespace {

constexpr int64_t kLanes = 16;       // constants are readable up to a multiple of these
constexpr int64_t kTilePixels = 16;  // of a plane: a cache line

// Pixels of channels beside each other to planes.
void StorePlanes(const float* values, int64_t pixels, int64_t channels, float* y, int64_t plane) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      y[c * plane + i] = values[i * StageFinish::kMaxColumns + c];
    }
  }
}

}  // namespace

StageFinish::StageFinish(const ConvStage& stage)
    : activation_(stage.activation),
      place_(stage.residual),
      residual_is_unsigned_(stage.residual_is_unsigned),
      range_(stage.y),
      scales_(stage.scales),
      channels_(stage.attributes.out_channels),
      padded_channels_(RoundUp(channels_, kLanes)),
      requantize_(RequantizeKernels().Choose().run) {}

StageFinish::Constants StageFinish::Prepare(const StageInputs& inputs, float x_scale,
                                            float residual_scale, float* memory) const {
  float* scales = memory;
  float* bias = memory + padded_channels_;
  std::fill_n(memory, ConstantFloats(), 0.0f);
  for (int64_t n = 0; n < channels_; ++n) {
    scales[n] = x_scale * scales_[n];
    bias[n] = inputs.bias[inputs.bias_is_scalar ? 0 : n];
  }
  return {scales, bias, residual_scale, inputs.y_scale};
}

int64_t StageFinish::ScratchBytes(int64_t pixels) const {
  return range_.is_float() ? std::min(kTilePixels, pixels) * kMaxColumns * 4 : 0;
}

void StageFinish::Run(const Constants& constants, const Target& target, const int32_t* sums,
                      int64_t stride, int64_t pixels, int64_t channel, int64_t channels,
                      uint8_t* scratch) const {
  RequantizeArguments r = {};
  r.sums = sums;
  r.stride = stride;
  r.pixels = pixels;
  r.channels = channels;
  r.scales = constants.scales + channel;
  r.bias = constants.bias + channel;
  r.activation = activation_;
  r.place = place_;
  if (place_ != Residual::kNone) r.residual = target.residual + channel;
  r.residual_stride = channels_;
  r.residual_is_unsigned = residual_is_unsigned_;
  r.residual_scale = constants.residual_scale;
  r.range = range_;
  r.y_scale = constants.y_scale;
  if (!range_.is_float()) {
    r.y = static_cast<uint8_t*>(target.y) + channel;
    r.y_stride = target.y_stride;
    return requantize_(r);
  }
  // A few pixels at a time: their values are still in the first-level cache.
  float* tile = reinterpret_cast<float*>(scratch);
  float* y = static_cast<float*>(target.y) + channel * target.y_stride;
  r.y = tile;
  r.y_stride = kMaxColumns;
  for (int64_t first = 0; first < pixels; first += kTilePixels) {
    r.sums = sums + first * stride;
    r.pixels = std::min(kTilePixels, pixels - first);
    if (r.residual != nullptr) r.residual = target.residual + first * channels_ + channel;
    requantize_(r);
    StorePlanes(tile, r.pixels, channels, y + first, target.y_stride);
  }
}

}  // namespace edgefold
