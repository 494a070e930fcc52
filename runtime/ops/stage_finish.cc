// SPDX-License-Identifier: Apache-2.0
#include "ops/stage_finish.h"

#include <algorithm>
#include <cstring>

#include "base/rounding.h"
#include "ops/four_bit_codes.h"

namespace edgefold {
namespace {

constexpr int64_t kLanes = 16;       // constants are readable up to a multiple of these
constexpr int64_t kTilePixels = 16;  // of a plane: a cache line
constexpr int64_t kTileCodes = kTilePixels * StageFinish::kMaxColumns;

using Four = float __attribute__((vector_size(16)));

inline Four Load(const float* values) {
  Four four;
  std::memcpy(&four, values, sizeof four);
  return four;
}

// Four pixels of four channels: rows become columns.
inline void Transpose(const float* values, float* y, int64_t plane) {
  constexpr int64_t kRow = StageFinish::kMaxColumns;
  const Four rows[4] = {Load(values), Load(values + kRow), Load(values + 2 * kRow),
                        Load(values + 3 * kRow)};
  const Four low[2] = {__builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5),
                       __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5)};
  const Four high[2] = {__builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7),
                        __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7)};
  const Four columns[4] = {__builtin_shufflevector(low[0], low[1], 0, 1, 4, 5),
                           __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7),
                           __builtin_shufflevector(high[0], high[1], 0, 1, 4, 5),
                           __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7)};
  for (int c = 0; c < 4; ++c) std::memcpy(y + c * plane, &columns[c], sizeof columns[c]);
}

// Pixels of channels beside each other to planes.
void StorePlanes(const float* values, int64_t pixels, int64_t channels, float* y, int64_t plane) {
  constexpr int64_t kRow = StageFinish::kMaxColumns;
  const int64_t whole_channels = channels / 4 * 4;
  const int64_t whole_pixels = pixels / 4 * 4;
  for (int64_t c = 0; c < whole_channels; c += 4) {
    for (int64_t i = 0; i < whole_pixels; i += 4) {
      Transpose(values + i * kRow + c, y + c * plane + i, plane);
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = c < whole_channels ? whole_pixels : 0; i < pixels; ++i) {
      y[c * plane + i] = values[i * kRow + c];
    }
  }
}

}  // namespace

StageFinish::StageFinish(const ConvStage& stage)
    : activation_(stage.activation),
      place_(stage.residual),
      residual_is_unsigned_(stage.residual_is_unsigned),
      range_(stage.y),
      in_planes_(stage.y.is_float() && !stage.y_last),
      packed_(stage.packed),
      scales_(stage.scales),
      channels_(stage.attributes.out_channels),
      padded_channels_(RoundUp(channels_, kLanes)),
      requantize_(RequantizeKernels().Choose().run),
      polynomials_(PolynomialsOf(RequantizeKernels().Choose().isa)) {}

StageFinish::Constants StageFinish::Prepare(const StageInputs& inputs, float x_scale,
                                            float residual_scale, float* memory) const {
  float* scales = memory;
  float* bias = memory + padded_channels_;
  std::fill_n(memory, ConstantFloats(), 0.0f);
  for (int64_t n = 0; n < channels_; ++n) {
    scales[n] = x_scale * scales_[n];
    bias[n] = inputs.bias[inputs.bias_is_scalar ? 0 : n];
  }
  Constants constants = {scales, bias, residual_scale, inputs.y_scale, {}};
  if (range_.is_float() || place_ == Residual::kAfterActivation) return constants;
  constants.estimate =
      EstimateCodes(activation_, inputs.y_scale, range_.low, range_.high, polynomials_);
  return constants;
}

int64_t StageFinish::ScratchBytes(int64_t pixels) const {
  const int64_t residual = packed_.residual ? kTileCodes : 0;
  const int64_t y = in_planes_ ? std::min(kTilePixels, pixels) * kMaxColumns * 4 : 0;
  return residual + (packed_.y ? kTileCodes : y);
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
  r.estimate = &constants.estimate;
  r.place = place_;
  if (place_ != Residual::kNone) r.residual = target.residual + channel;
  r.residual_stride = channels_;
  r.residual_is_unsigned = residual_is_unsigned_;
  r.residual_scale = constants.residual_scale;
  r.range = range_;
  r.y_scale = constants.y_scale;
  if (in_planes_ || packed_.y || packed_.residual) {
    return RunInTiles(r, target, channel, scratch);
  }
  r.y = static_cast<uint8_t*>(target.y) + channel * ElementBytes();
  r.y_stride = target.y_stride;
  requantize_(r);
}

// A few pixels at a time: what they are on their way is still in the first-level cache.
void StageFinish::RunInTiles(RequantizeArguments r, const Target& target, int64_t channel,
                             uint8_t* scratch) const {
  uint8_t* y = static_cast<uint8_t*>(target.y);
  uint8_t* tile = scratch + (packed_.residual ? kTileCodes : 0);
  const bool through_tile = in_planes_ || packed_.y;
  r.y_stride = through_tile ? kMaxColumns : target.y_stride;
  const int64_t pixels = r.pixels;
  for (int64_t first = 0; first < pixels; first += kTilePixels) {
    r.pixels = std::min(kTilePixels, pixels - first);
    if (packed_.residual) {
      UnpackRows(target.residual, first, channel, r, scratch);
      r.residual = scratch;
      r.residual_stride = kMaxColumns;
    }
    r.y = through_tile ? tile : y + (first * target.y_stride + channel) * ElementBytes();
    requantize_(r);
    if (packed_.y) PackRows(tile, first, channel, r, y);
    if (in_planes_) {
      StorePlanes(reinterpret_cast<const float*>(tile), r.pixels, r.channels,
                  static_cast<float*>(target.y) + channel * target.y_stride + first,
                  target.y_stride);
    }
    r.sums += r.pixels * r.stride;
    if (r.residual != nullptr) r.residual += r.pixels * r.residual_stride;
  }
}

void StageFinish::UnpackRows(const uint8_t* packed, int64_t first, int64_t channel,
                             const RequantizeArguments& r, uint8_t* rows) const {
  for (int64_t i = 0; i < r.pixels; ++i) {
    UnpackCodes(packed + ((first + i) * channels_ + channel) / 2, r.channels, residual_is_unsigned_,
                rows + i * kMaxColumns);
  }
}

void StageFinish::PackRows(const uint8_t* rows, int64_t first, int64_t channel,
                           const RequantizeArguments& r, uint8_t* packed) const {
  for (int64_t i = 0; i < r.pixels; ++i) {
    PackCodes(rows + i * kMaxColumns, r.channels, packed + ((first + i) * channels_ + channel) / 2);
  }
}

}  // namespace edgefold
