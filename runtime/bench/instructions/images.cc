// SPDX-License-Identifier: Apache-2.0
#include "bench/instructions/cases.h"
#include "kernels/conv_depthwise/conv_depthwise.h"
#include "kernels/conv_epilogue/conv_epilogue.h"
#include "kernels/conv_quantize/conv_quantize.h"
#include "kernels/lookup/lookup.h"
#include "kernels/requantize/requantize.h"
#include "selftest.h"

namespace edgefold::instructions {
namespace {

using selftest::Random;

// A row of the blocks of MobileNetV2 at 56x56.
constexpr int64_t kPixels = 56;
constexpr int64_t kChannels = 144;

// 16 of the channels; 3x3 of MobileNetV2, 5x5 of EfficientNet.
void Depthwise(Random& random) {
  std::vector<int32_t> acc(kPixels * 16);
  for (int64_t size : {3, 5}) {
    const int64_t line = (kPixels + size - 1) * kChannels;
    std::vector<int64_t> offsets;
    for (int64_t tap = 0; tap < size * size; ++tap) {
      offsets.push_back(tap / size * line + tap % size * kChannels);
    }
    std::vector<uint8_t> x(size * line + 16);
    for (uint8_t& code : x) code = static_cast<uint8_t>(random.Range(0, 255));
    std::vector<int16_t> weights((size * size + 1) / 2 * 32);
    for (int64_t c = 0; c < 16; ++c) {
      for (int64_t tap = 0; tap < size * size; ++tap) {
        weights[tap / 2 * 32 + c * 2 + tap % 2] = static_cast<int16_t>(random.Range(-127, 127));
      }
    }
    const ConvDepthwiseArguments d = {
        x.data(), true, kChannels, offsets.data(), size * size, weights.data(), kPixels, acc.data(),
        16,       1,    0};
    Count(size == 3 ? "conv_depthwise 56x16 3x3" : "conv_depthwise 56x16 5x5",
          [&] { ConvDepthwiseKernels().Choose().run(d); });
  }
}

void Requantize(Random& random) {
  std::vector<int32_t> sums(kPixels * kChannels);
  for (int32_t& sum : sums) sum = random.Range(-4000, 4000);
  // Scales whose multiples are no ties between codes, as those of models are not.
  std::vector<float> scales(kChannels);
  for (float& scale : scales) scale = 0.001f + 0.0002f * random.Uniform();
  const std::vector<float> bias(kChannels, 0.1f);
  std::vector<uint8_t> residual(kPixels * kChannels), y(kPixels * kChannels);
  RequantizeArguments r = {};
  r.sums = sums.data();
  r.stride = r.channels = r.residual_stride = r.y_stride = kChannels;
  r.pixels = kPixels;
  r.scales = scales.data();
  r.bias = bias.data();
  r.residual = residual.data();
  r.residual_scale = r.y_scale = 0.03f;
  r.y = y.data();
  const auto count = [&](const char* name, Activation activation, Residual place, CodeRange range) {
    r.activation = activation;
    r.place = place;
    r.range = range;
    const CodeEstimate estimate = EstimateCodes(activation, r.y_scale, range.low, range.high,
                                                PolynomialsOf(RequantizeKernels().Choose().isa));
    r.estimate = &estimate;
    Count(name, [&] { RequantizeKernels().Choose().run(r); });
  };
  constexpr CodeRange kUnsigned = {0, 255};
  constexpr CodeRange kSigned = {-127, 127};
  constexpr Activation kRelu6 = {ActivationKind::kClip, 0.0f, 6.0f};
  count("requantize 56x144 relu6", kRelu6, Residual::kNone, kUnsigned);
  count("requantize 56x144 clip, residual", {ActivationKind::kClip, -6.0f, 6.0f},
        Residual::kBeforeActivation, kSigned);
  count("requantize 56x144 hard-swish", {ActivationKind::kHardSwish, 1.0f / 6, 0.5f},
        Residual::kNone, kSigned);
  count("requantize 56x144 swish", {ActivationKind::kSwish, 1.0f, 0.0f}, Residual::kNone, kSigned);
}

// The borders of an integer region: float planes or bytes to codes, and back.
void Borders(Random& random) {
  std::vector<float> planes(kChannels * kPixels);
  for (float& value : planes) value = random.Uniform() * 4.0f;
  std::vector<uint8_t> codes(kPixels * kChannels);
  const ConvQuantizeArguments q = {planes.data(), kPixels, kChannels, kPixels,      nullptr,
                                   0.03f,         -127,    127,       codes.data(), kChannels};
  Count("conv_quantize 144x56", [&] { ConvQuantizeKernels().Choose().run(q); });
  const std::vector<int32_t> acc(kPixels * kChannels, 300);
  const std::vector<float> scales(kChannels, 0.01f);
  const ConvEpilogueArguments e = {acc.data(),    kChannels,     kPixels, kChannels,     0.02f,
                                   scales.data(), scales.data(), false,   planes.data(), kPixels};
  Count("conv_epilogue 144x56", [&] { ConvEpilogueKernels().Choose().run(e); });
  uint8_t table[256];
  for (int i = 0; i < 256; ++i) table[i] = static_cast<uint8_t>(255 - i);
  const std::vector<uint8_t> bytes(kPixels * kChannels, 7);
  Count("lookup 144x56", [&] {
    LookupKernels().Choose().run(bytes.data(), kPixels * kChannels, table, codes.data());
  });
}

}  // namespace

void CountImages() {
  Random random(3);
  Depthwise(random);
  Requantize(random);
  Borders(random);
}

}  // namespace edgefold::instructions
