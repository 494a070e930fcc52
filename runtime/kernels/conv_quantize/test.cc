// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/conv_quantize/conv_quantize.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

void Case(Random& random, int64_t channels, int64_t pixels, int low, int high, int max_shift,
          std::vector<Tally>& tallies) {
  const KernelTable<ConvQuantizeKernel> kernels = ConvQuantizeKernels();
  const int64_t channel_stride = pixels + random.Range(0, 3);
  const int64_t pixel_stride = channels + random.Range(0, 5);
  const float scale = random.Range(0, 1) == 0 ? 1.0f : 0.0123f;
  std::vector<float> x(channels * channel_stride);
  for (float& value : x) {
    value = random.Uniform() * 300.0f;
    // Halves, values out of range, and what is no number.
    if (random.Range(0, 3) == 0) value = std::floor(value) + 0.5f;
    value *= scale;
    if (random.Range(0, 30) == 0) value = random.Range(0, 1) == 0 ? INFINITY : -1e30f;
    if (random.Range(0, 30) == 0) value = NAN;
  }
  std::vector<float> steps(channels);
  for (float& step : steps) step = static_cast<float>(1 << random.Range(0, max_shift));
  Guarded<uint8_t> expected(pixels * pixel_stride);
  ConvQuantizeArguments q = {x.data(),
                             channel_stride,
                             channels,
                             pixels,
                             max_shift == 0 ? nullptr : steps.data(),
                             scale,
                             low,
                             high,
                             expected.data(),
                             pixel_stride};
  conv_quantize_reference(q);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<uint8_t> got(pixels * pixel_stride);
    q.codes = got.data();
    kernels.rows[i].run(q);
    char where[100];
    std::snprintf(where, sizeof where, "channels %d pixels %d low %d high %d shift %d",
                  static_cast<int>(channels), static_cast<int>(pixels), low, high, max_shift);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestConvQuantize() {
  std::vector<Tally> tallies = Tallies(ConvQuantizeKernels());
  Random random(11);
  for (int64_t channels : {1, 2, 3, 4, 5, 15, 16, 17, 23, 40}) {
    for (int64_t pixels : {0, 1, 3, 4, 7, 8, 9, 16, 31, 40}) {
      Case(random, channels, pixels, -127, 127, 0, tallies);
      Case(random, channels, pixels, 0, 255, 0, tallies);
      Case(random, channels, pixels, -7, 7, 4, tallies);
      Case(random, channels, pixels, 0, 63, 2, tallies);
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
