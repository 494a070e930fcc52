// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_epilogue/conv_epilogue.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int64_t channels, int64_t pixels, bool bias_is_scalar,
          std::vector<Tally>& tallies) {
  const KernelTable<ConvEpilogueKernel> kernels = ConvEpilogueKernels();
  const int64_t acc_stride = (channels + 15) / 16 * 16;
  const int64_t channel_stride = pixels + random.Range(0, 3);
  std::vector<int32_t> acc(pixels * acc_stride);
  for (int32_t& sum : acc) sum = static_cast<int32_t>(random.Next());
  std::vector<float> scales(channels);
  for (float& scale : scales) scale = random.Uniform() * 0.01f;
  std::vector<float> bias(bias_is_scalar ? 1 : channels);
  for (float& value : bias) value = random.Uniform();
  Guarded<float> expected(channels * channel_stride);
  ConvEpilogueArguments e = {};
  e.acc = acc.data();
  e.acc_stride = acc_stride;
  e.pixels = pixels;
  e.channels = channels;
  e.x_scale = 0.037f;
  e.scales = scales.data();
  e.bias = bias.data();
  e.bias_is_scalar = bias_is_scalar;
  e.y = expected.data();
  e.channel_stride = channel_stride;
  conv_epilogue_reference(e);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<float> got(channels * channel_stride);
    e.y = got.data();
    kernels.rows[i].run(e);
    char where[100];
    std::snprintf(where, sizeof where, "channels %d pixels %d scalar bias %d",
                  static_cast<int>(channels), static_cast<int>(pixels), bias_is_scalar);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestConvEpilogue() {
  std::vector<Tally> tallies = Tallies(ConvEpilogueKernels());
  Random random(12);
  for (int64_t channels : {1, 3, 4, 7, 8, 9, 15, 16, 40}) {
    for (int64_t pixels : {0, 1, 3, 4, 7, 8, 9, 31}) {
      Case(random, channels, pixels, pixels % 2 == 0, tallies);
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
