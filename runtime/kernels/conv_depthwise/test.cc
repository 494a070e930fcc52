// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "kernels/conv_depthwise/conv_depthwise.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// All codes and weights at the end of their range where `extreme`.
// `stride` > 0: rows as long as columns, and a column of every row one pixel or, with stride 2,
// half of one away from the next; 0: taps lie anywhere.
void Case(Random& random, int64_t taps, int64_t pixels, bool is_unsigned, bool extreme, int stride,
          std::vector<Tally>& tallies) {
  const KernelTable<ConvDepthwiseKernel> kernels = ConvDepthwiseKernels();
  const int64_t column = 16 + random.Range(0, 40);
  const int64_t step = column * std::max(stride, 1);
  std::vector<int64_t> offsets(taps);
  for (int64_t& offset : offsets) offset = random.Range(0, 500);
  const int64_t size = std::llround(std::sqrt(static_cast<double>(taps)));
  if (stride > 0) {
    for (int64_t t = 0; t < taps; ++t) offsets[t] = offsets[t / size * size] + t % size * column;
  }
  const int64_t most = *std::max_element(offsets.begin(), offsets.end());
  // Exactly as many bytes as the contract lets a kernel read, for the sanitizer.
  const int64_t panels = random.Range(1, 3);
  const int64_t panel_step = random.Range(0, 20);
  std::vector<uint8_t> x(most + std::max<int64_t>(0, pixels - 1) * step +
                         (panels - 1) * panel_step + 16);
  for (uint8_t& code : x) {
    const int value = is_unsigned ? random.Range(0, 255) : random.Range(-127, 127);
    code = static_cast<uint8_t>(extreme ? (is_unsigned ? 255 : -127) : value);
  }
  const int64_t panel_weights = (taps + 1) / 2 * 32;
  std::vector<int16_t> weights(panels * panel_weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i) % panel_weights;
    const bool beyond = taps % 2 != 0 && at / 32 == panel_weights / 32 - 1 && at % 2 != 0;
    weights[i] = static_cast<int16_t>(beyond ? 0 : extreme ? -127 : random.Range(-127, 127));
  }
  const int64_t acc_stride = panels * 16 + random.Range(0, 3);
  Guarded<int32_t> expected(pixels * acc_stride);
  ConvDepthwiseArguments d = {x.data(),   is_unsigned,    step,      offsets.data(),
                              taps,       weights.data(), pixels,    expected.data(),
                              acc_stride, panels,         panel_step};
  conv_depthwise_reference(d);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<int32_t> got(pixels * acc_stride);
    d.acc = got.data();
    kernels.rows[i].run(d);
    char where[100];
    std::snprintf(where, sizeof where, "taps %d pixels %d unsigned %d extreme %d stride %d",
                  static_cast<int>(taps), static_cast<int>(pixels), is_unsigned, extreme, stride);
    tallies[i].Check(got.Equals(expected), where);
  }
}

}  // namespace

std::vector<Tally> TestConvDepthwise() {
  std::vector<Tally> tallies = Tallies(ConvDepthwiseKernels());
  Random random(13);
  for (bool is_unsigned : {false, true}) {
    for (bool extreme : {false, true}) {
      for (int64_t taps : {1, 2, 3, 9, 25, 49}) {
        for (int64_t pixels : {0, 1, 2, 3, 4, 5, 6, 7, 17}) {
          Case(random, taps, pixels, is_unsigned, extreme, 0, tallies);
          if (taps < 9) continue;
          for (int stride : {1, 2, 3}) {
            Case(random, taps, pixels, is_unsigned, extreme, stride, tallies);
          }
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
