// SPDX-License-Identifier: Apache-2.0
#include "ops/conv_block.h"

#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

struct Geometry {
  ConvAttributes attributes;
  int64_t height;
  int64_t width;
};

// What the definition gives for all images, as y is stored.
void Define(const StageCase& c, const ConvBlockInputs& inputs, const std::vector<uint8_t>& x,
            void* y) {
  const int64_t channels = c.stage.attributes.out_channels;
  const int64_t pixels = inputs.shape.OutPixels();
  const int64_t in = inputs.shape.InPixels() * c.stage.attributes.in_channels;
  const uint8_t* residual = static_cast<const uint8_t*>(inputs.residual);
  for (int64_t b = 0; b < inputs.batch; ++b) {
    const uint8_t* added = residual == nullptr ? nullptr : residual + b * pixels * channels;
    std::vector<uint8_t> image = DefinedStage(c, inputs.shape, x.data() + b * in, inputs.x_scale,
                                              added, inputs.residual_scale);
    if (c.stage.packed.y) image = Packed(image);
    uint8_t* out = static_cast<uint8_t*>(y) + b * static_cast<int64_t>(image.size());
    std::memcpy(out, image.data(), image.size());
    if (!c.stage.y.is_float() || c.stage.y_last) continue;
    const float* values = reinterpret_cast<const float*>(image.data());
    std::memcpy(out, Planes(values, channels, pixels).data(), image.size());
  }
}

// Of one dimension.
ConvAttributes Signal(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride,
                      int64_t begin, int64_t end, int64_t group, int64_t dilation = 1) {
  ConvAttributes a = Square(inputs, outputs, 1, 1, 0, group);
  a.kernel[2] = kernel;
  a.strides[2] = stride;
  a.pads_begin[2] = begin;
  a.pads_end[2] = end;
  a.dilations[2] = dilation;
  return a;
}

bool FitsFourBits(CodeRange range, int64_t channels) {
  return range.high <= kFourBitUnsignedHigh && !range.is_float() && channels % 2 == 0;
}

// Element: float where y is a float image, else uint8_t.
template <typename Element>
void Case(Random& random, const Geometry& g, StageCase& c, bool x_float, bool packed,
          Tally& tally) {
  const ConvAttributes& a = g.attributes;
  const int64_t size[] = {1, g.height, g.width};
  ConvBlockInputs inputs = {};
  if (!MakeConvShape(a, size, &inputs.shape)) return tally.Check(false, "the case has no shape");
  inputs.batch = random.Range(1, 2);
  inputs.x_scale = 0.017f;
  inputs.stage = c.inputs;
  inputs.residual_scale = 0.045f;
  const int64_t in_pixels = inputs.shape.InPixels();
  const CodeRange range = {c.stage.x.low, c.stage.x.high};
  const std::vector<uint8_t> x =
      RandomCodes(random, range, inputs.batch * in_pixels * a.in_channels);
  // Pixels of one channel lie the same either way.
  const std::vector<float> image =
      c.stage.x_last
          ? ImageOfCodes(x, range, 1, static_cast<int64_t>(x.size()), 1, inputs.x_scale)
          : ImageOfCodes(x, range, inputs.batch, in_pixels, a.in_channels, inputs.x_scale);
  c.stage.x.x_codes = !x_float;
  inputs.x = x_float ? static_cast<const void*>(image.data()) : x.data();
  const int64_t results = inputs.batch * inputs.shape.OutPixels() * a.out_channels;
  const std::vector<uint8_t> residual = RandomCodes(random, range, results);
  if (c.stage.residual != Residual::kNone) inputs.residual = residual.data();
  c.stage.packed.x = packed && !x_float && FitsFourBits(range, a.in_channels);
  c.stage.packed.residual =
      packed && inputs.residual != nullptr && FitsFourBits(range, a.out_channels);
  c.stage.packed.y = packed && FitsFourBits(c.stage.y, a.out_channels);
  const int64_t stored = c.stage.packed.y ? results / 2 : results;

  Guarded<Element> expected(stored);
  Define(c, inputs, x, expected.data());
  Guarded<Element> got(stored);
  inputs.y = got.data();
  const std::vector<uint8_t> x_packed = c.stage.packed.x ? Packed(x) : x;
  if (c.stage.packed.x) inputs.x = x_packed.data();
  const std::vector<uint8_t> residual_packed =
      c.stage.packed.residual ? Packed(residual) : residual;
  if (c.stage.packed.residual) inputs.residual = residual_packed.data();
  const bool ran = ConvBlock(c.stage).Run(inputs, Backwards());
  char where[160];
  std::snprintf(
      where, sizeof where,
      "%dx%d, %d to %d channels, group %d, kernel %d, %d bits, x %s, y high %d, packed %d",
      static_cast<int>(g.height), static_cast<int>(g.width), static_cast<int>(a.in_channels),
      static_cast<int>(a.out_channels), static_cast<int>(a.group), static_cast<int>(a.kernel[2]),
      c.stage.matrix.bits, x_float ? "float" : "codes", c.stage.y.high, packed);
  tally.Check(ran && got.Equals(expected), where);
}

}  // namespace

std::vector<Tally> TestConvBlock() {
  std::vector<Tally> tallies = {TallyOf("conv_block")};
  Random random(21);
  const Geometry geometries[] = {
      {Square(32, 48, 1, 1, 0, 1), 5, 7},
      {Square(24, 70, 1, 1, 0, 1), 3, 5},
      {Square(16, 33, 1, 2, 0, 1), 7, 6},
      {Square(3, 20, 3, 2, 1, 1), 9, 8},
      {Square(16, 32, 3, 1, 1, 1), 6, 45},
      {Square(8, 8, 3, 1, 2, 1, 2), 7, 7},
      {Square(20, 20, 3, 1, 1, 20), 6, 40},
      {Square(48, 48, 5, 2, 2, 48), 9, 11},
      {Square(17, 17, 7, 1, 3, 17), 8, 5},
      {Square(16, 16, 3, 1, 2, 16, 2), 5, 6},
      {Square(12, 24, 3, 1, 1, 4), 5, 6},
      {Square(64, 32, 3, 1, 1, 2), 6, 6},
      {Square(48, 48, 3, 2, 1, 6), 9, 11},  // panels of two groups
      {Square(40, 40, 3, 1, 1, 5), 5, 6},
      {Square(30, 72, 3, 1, 1, 3), 4, 9},
      {Square(14, 24, 1, 1, 0, 2), 5, 5},
      {Square(16, 16, 3, 1, 2, 2, 2), 7, 5},
      {Square(8, 16, 3, 1, 1, 8), 4, 5},
      {Square(1, 5, 3, 1, 1, 1), 6, 6},
      {Square(32, 40, 1, 1, 1, 1), 5, 6},  // windows in the padding alone
      {Square(16, 24, 2, 3, 4, 1), 4, 20},
      {Square(16, 16, 1, 2, 5, 4), 3, 4},
      {Signal(6, 9, 3, 1, 2, 0, 1), 1, 20},  // causal
      {Signal(16, 24, 5, 1, 8, 0, 1, 2), 1, 530},
      {Signal(20, 20, 9, 2, 4, 4, 20), 1, 700},
      {Signal(12, 24, 3, 1, 1, 1, 4), 1, 520},
      {Signal(8, 16, 2, 1, 280, 270, 1, 260), 1, 200},  // bands in the padding alone
  };
  const Activation activations[] = {kRelu6, kNoActivation, kHardSwish};
  int number = 0;
  for (const Geometry& g : geometries) {
    for (CodeRange x : {kUnsigned, kSigned, kFourBits, kSignedFourBits}) {
      for (CodeRange y : {kUnsigned, kSigned, kFourBits, kSignedFourBits, kFloats}) {
        for (Residual residual :
             {Residual::kNone, Residual::kBeforeActivation, Residual::kAfterActivation}) {
          StageCase c(random, g.attributes, number % 2 == 0, x, y, activations[number % 3],
                      residual);
          c.stage.x_last = number % 4 < 2;
          c.stage.y_last = number % 4 == 1 || number % 4 == 2;
          auto* run = y.is_float() ? Case<float> : Case<uint8_t>;
          run(random, g, c, number % 7 == 0, number % 11 != 0, tallies[0]);
          ++number;
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
