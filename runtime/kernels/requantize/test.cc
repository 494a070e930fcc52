// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "kernels/requantize/requantize.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> Floats(Random& random, int64_t size, float scale) {
  std::vector<float> values(size);
  for (float& value : values) value = random.Uniform() * scale;
  return values;
}

struct Layout {
  int64_t channels;
  int64_t pixels;
  Activation activation;
  CodeRange range;
  Residual place;
};

// Compares every variant with the reference; y begins as canaries between canaries.
template <typename Element>
void Compare(RequantizeArguments r, const char* where, std::vector<Tally>& tallies) {
  const KernelTable<RequantizeKernel> kernels = RequantizeKernels();
  Guarded<Element> expected(r.pixels * r.y_stride);
  r.y = expected.data();
  requantize_reference(r);
  for (size_t i = 0; i < kernels.size; ++i) {
    if (!tallies[i].supported) continue;
    Guarded<Element> got(r.pixels * r.y_stride);
    r.y = got.data();
    kernels.rows[i].run(r);
    tallies[i].Check(got.Equals(expected), where);
  }
}

void Case(Random& random, const Layout& l, std::vector<Tally>& tallies) {
  const int64_t whole = (l.channels + 15) / 16 * 16;
  const int64_t stride = whole + random.Range(0, 3);
  std::vector<int32_t> sums(l.pixels * stride);
  for (int32_t& sum : sums) sum = random.Range(-40000, 40000);
  std::vector<float> scales = Floats(random, whole, 0.01f);
  std::vector<float> bias = Floats(random, whole, 3.0f);
  if (random.Next() % 2 == 0) {
    // Quotients that are halves: rounding must be to even.
    for (float& scale : scales) scale = 0.5f;
    for (float& value : bias) value = 0.0f;
    for (int32_t& sum : sums) sum = random.Range(-600, 600);
  }
  const int64_t residual_stride = l.channels + random.Range(0, 3);
  // Exactly as many codes as the contract lets a kernel read, for the sanitizer.
  std::vector<uint8_t> residual(l.place == Residual::kNone ? 0 : l.pixels * residual_stride);
  for (uint8_t& code : residual) code = static_cast<uint8_t>(random.Range(-127, 127));

  RequantizeArguments r = {};
  r.sums = sums.data();
  r.stride = stride;
  r.pixels = l.pixels;
  r.channels = l.channels;
  r.scales = scales.data();
  r.bias = bias.data();
  r.activation = l.activation;
  r.place = l.place;
  r.residual = residual.data();
  r.residual_stride = residual_stride;
  r.residual_is_unsigned = random.Next() % 2 == 0;
  r.residual_scale = 0.037f;
  r.range = l.range;
  r.y_scale = random.Next() % 2 == 0 ? 1.0f : 0.0123f;
  r.y_stride = l.channels + random.Range(0, 3);
  char where[120];
  std::snprintf(where, sizeof where, "channels %d pixels %d kind %d low %d high %d residual %d",
                static_cast<int>(l.channels), static_cast<int>(l.pixels),
                static_cast<int>(l.activation.kind), l.range.low, l.range.high,
                static_cast<int>(l.place));
  l.range.is_float() ? Compare<float>(r, where, tallies) : Compare<uint8_t>(r, where, tallies);
}

// One pixel whose values are these biases.
RequantizeArguments OfValues(const std::vector<float>& values, const std::vector<int32_t>& sums,
                             const std::vector<float>& scales) {
  RequantizeArguments r = {};
  r.sums = sums.data();
  r.scales = scales.data();
  r.bias = values.data();
  r.pixels = 1;
  r.stride = r.channels = r.y_stride = static_cast<int64_t>(values.size());
  r.activation = {ActivationKind::kClip, -kInfinity, kInfinity};
  return r;
}

// What no calculation should give, and must not break one.
void Special(std::vector<Tally>& tallies) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values = {kNan, kInfinity, -kInfinity, 1e38f,  -1e38f, 1e-45f,
                                     0.0f, 0.5f,      1.5f,       2.5f,   -0.5f,  -1.5f,
                                     6.5f, 254.5f,    255.5f,     -127.5f};
  const std::vector<int32_t> sums(values.size());
  const std::vector<float> scales(values.size());
  RequantizeArguments r = OfValues(values, sums, scales);
  r.y_scale = 1.0f;
  for (CodeRange range : {CodeRange{0, 255}, CodeRange{-127, 127}, CodeRange{-7, 7}}) {
    for (float lowest : {-kInfinity, 0.0f, 2.0f}) {
      r.range = range;
      r.activation.alpha = lowest;
      r.estimate = nullptr;
      Compare<uint8_t>(r, "special values", tallies);
      for (EstimateForm form :
           {EstimateForm::kLine, EstimateForm::kCubics, EstimateForm::kQuartics}) {
        if (form != EstimateForm::kLine) r.activation = {ActivationKind::kSwish, 1.0f, 0.0f};
        const CodeEstimate estimate =
            EstimateCodes(r.activation, r.y_scale, range.low, range.high, form);
        r.estimate = &estimate;
        Compare<uint8_t>(r, "special values, estimated", tallies);
      }
      r.activation = {ActivationKind::kClip, -kInfinity, kInfinity};
    }
  }
}

// Values beside the ties between two codes, where a quotient that is off by its last bit shows.
void Ties(Random& random, std::vector<Tally>& tallies) {
  std::vector<float> values(256 * 16);
  const std::vector<int32_t> sums(values.size());
  const std::vector<float> scales(values.size());
  RequantizeArguments r = OfValues(values, sums, scales);
  for (int round = 0; round < 40; ++round) {
    const int exponent = round == 0 ? -64 : round == 1 ? 63 : random.Range(-20, 5);
    r.y_scale = std::ldexp(1.5f + 0.5f * random.Uniform(), exponent);
    r.range = round % 2 == 0 ? CodeRange{0, 255} : CodeRange{-127, 127};
    for (size_t i = 0; i < values.size(); ++i) {
      float value = (static_cast<float>(i / 16) - (round % 2 == 0 ? 0.5f : 128.5f)) * r.y_scale;
      for (size_t ulp = 0; ulp < i % 8; ++ulp) {
        value = std::nextafter(value, i % 16 < 8 ? kInfinity : -kInfinity);
      }
      values[i] = value;
    }
    r.estimate = nullptr;
    Compare<uint8_t>(r, "values beside ties", tallies);
    const CodeEstimate estimate =
        EstimateCodes(r.activation, r.y_scale, r.range.low, r.range.high, EstimateForm::kNone);
    r.estimate = &estimate;
    Compare<uint8_t>(r, "values beside ties, estimated", tallies);
  }
}

// Sums that all but cancel a bias of millions of codes: no estimate is certain of any code. Of
// these the estimate is wrong, and as far above a tie as the low half of an integer can be.
void Cancelled(std::vector<Tally>& tallies) {
  const std::vector<float> scales(64, 0.25f), bias(64, 4000000.0f);
  const struct {
    int32_t sum;
    float y_scale;
  } kCases[] = {{-16000018, 0x1.008p0f}, {-16000455, 0x1.009p0f}, {-16000067, 0x1.029p0f},
                {-16000382, 0x1.091p0f}, {-15999857, 0x1.0e3p0f}, {-15999653, 0x1.12fp0f}};
  for (const auto& c : kCases) {
    const std::vector<int32_t> sums(64, c.sum);
    RequantizeArguments r = OfValues(bias, sums, scales);
    r.range = {-127, 127};
    r.y_scale = c.y_scale;
    const CodeEstimate estimate =
        EstimateCodes(r.activation, r.y_scale, r.range.low, r.range.high, EstimateForm::kNone);
    r.estimate = &estimate;
    Compare<uint8_t>(r, "sums that cancel the bias", tallies);
  }
}

// Of kLeakyRelu: a common one, 0, those that take the sign away or do nothing, and any.
float Slope(Random& random) {
  const float slopes[] = {0.01f, 0.1f, 0.0f, -1.0f, 1.0f, random.Uniform()};
  return slopes[random.Next() % 6];
}

// Estimates in place of formulas, all over their range, beyond it, and beyond 32 bits.
void Estimates(Random& random, std::vector<Tally>& tallies) {
  constexpr int64_t kChannels = 64, kPixels = 60;
  std::vector<int32_t> sums(kPixels * kChannels);
  std::vector<uint8_t> residual(sums.size());
  for (uint8_t& code : residual) code = static_cast<uint8_t>(random.Range(-127, 127));
  RequantizeArguments r = {};
  r.sums = sums.data();
  r.stride = r.channels = r.residual_stride = r.y_stride = kChannels;
  r.pixels = kPixels;
  r.residual = residual.data();
  r.residual_scale = 0.01f;
  int usable[kActivationKinds] = {};
  for (int round = 0; round < 800; ++round) {
    const auto kind = static_cast<ActivationKind>(round % kActivationKinds);
    const float scale = std::ldexp(1.0f + random.Uniform() * 0.5f, random.Range(-30, -4));
    const std::vector<float> scales(kChannels, scale), bias = Floats(random, kChannels, 3.0f);
    for (int32_t& sum : sums) sum = random.Range(-1000000, 1000000);
    r.scales = scales.data();
    r.bias = bias.data();
    r.activation = {kind, round % 3 == 0 ? 1.0f : 1.0f + random.Uniform(), 0.5f};
    if (kind == ActivationKind::kClip) r.activation = {kind, -random.Uniform(), 2.0f};
    if (kind == ActivationKind::kLeakyRelu) r.activation = {kind, Slope(random), 0.0f};
    r.place = static_cast<Residual>(random.Range(0, 2));
    r.range = round % 2 == 0   ? CodeRange{-127, 127}
              : round % 5 == 0 ? CodeRange{0, 15}
                               : CodeRange{0, 255};
    r.y_scale = std::ldexp(1.5f + 0.5f * random.Uniform(), random.Range(-10, 0));
    const CodeEstimate estimate =
        EstimateCodes(r.activation, r.y_scale, r.range.low, r.range.high,
                      round % 3 == 0 ? EstimateForm::kCubics : EstimateForm::kQuartics);
    r.estimate = r.place != Residual::kAfterActivation ? &estimate : nullptr;
    usable[static_cast<int>(kind)] += estimate.form != EstimateForm::kNone;
    Compare<uint8_t>(r, "estimates", tallies);
  }
  for (ActivationKind kind :
       {ActivationKind::kClip, ActivationKind::kHardSwish, ActivationKind::kSwish,
        ActivationKind::kGelu, ActivationKind::kLeakyRelu}) {
    const bool often = usable[static_cast<int>(kind)] >= 10;
    tallies.back().Check(often, "common scales have an estimate");
  }
}

}  // namespace

std::vector<Tally> TestRequantize() {
  std::vector<Tally> tallies = Tallies(RequantizeKernels());
  Random random(16);
  int number = 0;
  for (CodeRange range : {CodeRange{0, 255}, CodeRange{-127, 127}, CodeRange{0, 15}, CodeRange{}}) {
    for (Residual place :
         {Residual::kNone, Residual::kBeforeActivation, Residual::kAfterActivation}) {
      for (int64_t channels : {1, 7, 8, 15, 16, 17, 32, 40, 64, 100}) {
        for (int64_t pixels : {0, 1, 2, 5}) {
          const auto kind = static_cast<ActivationKind>(number++ % kActivationKinds);
          for (Activation activation : {Activation{ActivationKind::kClip, 0.0f, 6.0f},
                                        Activation{ActivationKind::kClip, -kInfinity, kInfinity},
                                        Activation{kind, 0.2f, 0.5f}}) {
            Case(random, {channels, pixels, activation, range, place}, tallies);
          }
        }
      }
    }
  }
  Special(tallies);
  Ties(random, tallies);
  Cancelled(tallies);
  Estimates(random, tallies);
  return tallies;
}

}  // namespace edgefold::selftest
