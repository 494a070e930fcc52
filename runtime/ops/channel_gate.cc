// SPDX-License-Identifier: Apache-2.0
#include "ops/channel_gate.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "base/rounding.h"
#include "base/scratch.h"

namespace edgefold {
namespace {

constexpr int64_t kChannelsAtOnce = 64;   // of a mean: a cache line of every pixel
constexpr int64_t kShortSums = 128;       // codes whose sum fits int16
constexpr int64_t kGateElements = 16384;  // that are widened at once: their int32 stay in L2
constexpr int64_t kLanes = 16;            // what the requantizer reads at once
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Adds the codes of some channels, `stride` apart from pixel to pixel. `channels` is a constant
// wherever it is inlined with one.
template <typename Code>
inline void AddCodes(const Code* x, int64_t stride, int64_t pixels, int64_t channels,
                     int32_t* sums) {
  for (int64_t first = 0; first < pixels; first += kShortSums) {
    int16_t part[kChannelsAtOnce] = {};
    const int64_t last = std::min(pixels, first + kShortSums);
    for (int64_t p = first; p < last; ++p) {
      for (int64_t c = 0; c < channels; ++c) part[c] += x[p * stride + c];
    }
    for (int64_t c = 0; c < channels; ++c) sums[c] += part[c];
  }
}

template <typename Code>
void MeansOfChannels(const CodePixels& x, int64_t image, int64_t channel, float* y) {
  const Code* codes = static_cast<const Code*>(x.codes) + image * x.pixels * x.channels + channel;
  const int64_t channels = std::min(kChannelsAtOnce, x.channels - channel);
  int32_t sums[kChannelsAtOnce] = {};
  if (channels == kChannelsAtOnce) {
    AddCodes(codes, x.channels, x.pixels, kChannelsAtOnce, sums);
  } else {
    AddCodes(codes, x.channels, x.pixels, channels, sums);
  }
  const float scale = x.scale / static_cast<float>(x.pixels);
  for (int64_t c = 0; c < channels; ++c) {
    y[image * x.channels + channel + c] = static_cast<float>(sums[c]) * scale;
  }
}

// Codes as the sums that the requantizer takes, in rows of `stride`.
template <typename Code>
void Widen(const Code* x, int64_t pixels, int64_t channels, int32_t* sums, int64_t stride) {
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) sums[p * stride + c] = x[p * channels + c];
  }
}

}  // namespace

void ChannelMeans(const CodePixels& x, float* y, const Parallel& parallel) {
  const int64_t parts = CeilDiv(x.channels, kChannelsAtOnce);
  parallel.For(x.batch * parts, [&](size_t index) {
    const int64_t image = static_cast<int64_t>(index) / parts;
    const int64_t channel = static_cast<int64_t>(index) % parts * kChannelsAtOnce;
    (x.is_unsigned ? MeansOfChannels<uint8_t> : MeansOfChannels<int8_t>)(x, image, channel, y);
  });
}

bool GateChannels(const CodePixels& x, const float* gate, CodeRange range, float y_scale, void* y,
                  const Parallel& parallel) {
  const int64_t stride = RoundUp(x.channels, kLanes);
  const Scratch constants = AllocateScratch((x.batch + 1) * stride * 4);
  if (constants == nullptr) return false;
  float* bias = reinterpret_cast<float*>(constants.get());
  float* scales = bias + stride;  // [batch][stride]
  std::fill_n(bias, (x.batch + 1) * stride, 0.0f);
  for (int64_t i = 0; i < x.batch; ++i) {
    for (int64_t c = 0; c < x.channels; ++c) {
      scales[i * stride + c] = x.scale * gate[i * x.channels + c];
    }
  }
  RequantizeKernel* requantize = RequantizeKernels().Choose().run;
  constexpr Activation kNone = {ActivationKind::kClip, -kInfinity, kInfinity};
  const CodeEstimate estimate =
      EstimateCodes(kNone, y_scale, range.low, range.high, EstimateForm::kNone);
  const int64_t block = std::clamp<int64_t>(kGateElements / stride, 1, x.pixels);
  const int64_t blocks = CeilDiv(x.pixels, block);
  std::atomic<bool> enough_memory{true};
  parallel.For(x.batch * blocks, [&](size_t index) {
    const int64_t image = static_cast<int64_t>(index) / blocks;
    const int64_t pixel = static_cast<int64_t>(index) % blocks * block;
    const int64_t at = (image * x.pixels + pixel) * x.channels;
    const Scratch memory = AllocateScratch(block * stride * 4);
    if (memory == nullptr) {
      enough_memory = false;
      return;
    }
    int32_t* sums = reinterpret_cast<int32_t*>(memory.get());
    RequantizeArguments r = {};
    r.sums = sums;
    r.stride = stride;
    r.pixels = std::min(block, x.pixels - pixel);
    r.channels = x.channels;
    r.scales = scales + image * stride;
    r.bias = bias;
    r.activation = kNone;
    r.estimate = &estimate;
    r.range = range;
    r.y_scale = y_scale;
    r.y = static_cast<uint8_t*>(y) + at;
    r.y_stride = x.channels;
    if (x.is_unsigned) {
      Widen(static_cast<const uint8_t*>(x.codes) + at, r.pixels, x.channels, sums, stride);
    } else {
      Widen(static_cast<const int8_t*>(x.codes) + at, r.pixels, x.channels, sums, stride);
    }
    requantize(r);
  });
  return enough_memory;
}

}  // namespace edgefold
