// SPDX-License-Identifier: Apache-2.0
#include "ops/channel_gate.h"

#include <algorithm>
#include <cmath>

#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

// Images of random codes and their storage.
struct ImagesCase {
  ImagesCase(Random& random, CodeRange range, int64_t batch, int64_t pixels, int64_t channels)
      : codes(RandomCodes(random, range, batch * pixels * channels)),
        x{codes.data(), range.low == 0, batch, pixels, channels, 0.037f} {}
  ImagesCase(const ImagesCase&) = delete;

  int Code(int64_t image, int64_t pixel, int64_t channel) const {
    const uint8_t code = codes[(image * x.pixels + pixel) * x.channels + channel];
    return x.is_unsigned ? code : static_cast<int8_t>(code);
  }

  std::vector<uint8_t> codes;
  CodePixels x;
};

void MeansCase(const ImagesCase& c, const char* where, Tally& tally) {
  const CodePixels& x = c.x;
  Guarded<float> expected(x.batch * x.channels);
  Guarded<float> got(x.batch * x.channels);
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t n = 0; n < x.channels; ++n) {
      int32_t sum = 0;
      for (int64_t p = 0; p < x.pixels; ++p) sum += c.Code(b, p, n);
      const float scale = x.scale / static_cast<float>(x.pixels);
      expected.data()[b * x.channels + n] = static_cast<float>(sum) * scale;
    }
  }
  ChannelMeans(x, got.data(), Backwards());
  tally.Check(got.Equals(expected), where);
}

void GatesCase(Random& random, const ImagesCase& c, CodeRange y, const char* where, Tally& tally) {
  const CodePixels& x = c.x;
  const float y_scale = 0.021f;
  std::vector<float> gate(x.batch * x.channels);
  for (float& factor : gate) factor = random.Uniform() + 0.5f;
  Guarded<uint8_t> expected(x.batch * x.pixels * x.channels);
  Guarded<uint8_t> got(x.batch * x.pixels * x.channels);
  uint8_t* out = expected.data();
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t p = 0; p < x.pixels; ++p) {
      for (int64_t n = 0; n < x.channels; ++n) {
        const float scale = x.scale * gate[b * x.channels + n];
        const float v = static_cast<float>(c.Code(b, p, n)) * scale;
        const int code = static_cast<int>(std::nearbyintf(v / y_scale));
        *out++ = static_cast<uint8_t>(std::clamp<int>(code, y.low, y.high));
      }
    }
  }
  const bool ran = GateChannels(x, gate.data(), y, y_scale, got.data(), Backwards());
  tally.Check(ran && got.Equals(expected), where);
}

}  // namespace

std::vector<Tally> TestChannelGate() {
  std::vector<Tally> tallies = {TallyOf("channel_mean"), TallyOf("channel_gate")};
  Random random(43);
  for (CodeRange range : {kUnsigned, kSigned}) {
    for (int64_t pixels : {1, 9, 196, 1500}) {  // sums of int16 take 128
      for (int64_t channels : {1, 16, 64, 83, 200}) {
        const ImagesCase c(random, range, 2, pixels, channels);
        char where[60];
        std::snprintf(where, sizeof where, "%d pixels of %d channels, low %d",
                      static_cast<int>(pixels), static_cast<int>(channels), range.low);
        MeansCase(c, where, tallies[0]);
        for (CodeRange y : {kUnsigned, kSigned}) GatesCase(random, c, y, where, tallies[1]);
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
