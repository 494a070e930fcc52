// SPDX-License-Identifier: Apache-2.0
#include "ops/inverted_residual.h"

#include <memory>

#include "ops/conv_block.h"
#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

struct Block {
  int64_t in, expanded, out;  // channels
  int64_t kernel, stride, pad;
  int64_t height, width;
  bool has_expand;
  int64_t dilation = 1;
};

struct Formats {
  CodeRange x, inner, y;
  Activation activation;
  bool residual;
  bool x_float;
  bool shift;
  bool packed;  // what has codes of four bits
};

ConvShape ShapeOf(const ConvAttributes& a, int64_t height, int64_t width) {
  const int64_t size[] = {1, height, width};
  ConvShape shape = {};
  return MakeConvShape(a, size, &shape) ? shape : ConvShape{};
}

// The three stages as ConvBlocks, one after the other, on images that exist in full.
bool RunStages(const InvertedResidualStages& stages, const InvertedResidualInputs& in,
               const uint8_t* residual, void* y) {
  const ConvShape& s = in.shape;
  const int64_t batch = in.batch;
  std::vector<uint8_t> codes(batch * s.InPixels() * stages.project.attributes.out_channels);
  std::vector<uint8_t> expanded(batch * s.InPixels() * stages.depthwise.attributes.in_channels);
  std::vector<uint8_t> filtered(batch * s.OutPixels() * stages.depthwise.attributes.in_channels);
  bool ran = true;
  const void* x = in.x;
  float scale = in.x_scale;
  if (stages.has_expand) {
    const ConvShape flat = ShapeOf(stages.expand.attributes, s.in[1], s.in[2]);
    ran = ConvBlock(stages.expand)
              .Run({x, batch, flat, scale, in.expand, nullptr, 0.0f, expanded.data()}, Backwards());
    x = expanded.data();
    scale = in.expand.y_scale;
  }
  ran = ran &&
        ConvBlock(stages.depthwise)
            .Run({x, batch, s, scale, in.depthwise, nullptr, 0.0f, filtered.data()}, Backwards());
  const ConvShape flat = ShapeOf(stages.project.attributes, s.out[1], s.out[2]);
  return ran && ConvBlock(stages.project)
                    .Run({filtered.data(), batch, flat, in.depthwise.y_scale, in.project, residual,
                          in.x_scale, y},
                         Backwards());
}

// Each band after the one before it, whose ring it takes over; Backwards() never lets it.
constexpr Parallel kInOrder = {[](void*, void (*task)(void*, size_t), size_t total, void* user) {
                                 for (size_t i = 0; i < total; ++i) task(user, i);
                               },
                               nullptr};

// Element: float where y is a float image, else uint8_t.
template <typename Element>
void Case(Random& random, const Block& b, const Formats& f, Tally& tally) {
  const Residual place = f.residual ? Residual::kAfterActivation : Residual::kNone;
  StageCase expand(random, Square(b.in, b.expanded, 1, 1, 0, 1), f.shift, f.x, f.inner,
                   f.activation, Residual::kNone);
  StageCase depthwise(
      random, Square(b.expanded, b.expanded, b.kernel, b.stride, b.pad, b.expanded, b.dilation),
      false, b.has_expand ? f.inner : f.x, f.inner, f.activation, Residual::kNone);
  StageCase project(random, Square(b.expanded, b.out, 1, 1, 0, 1), f.shift, f.inner, f.y,
                    kNoActivation, place);
  project.stage.residual_is_unsigned = f.x.is_unsigned();
  InvertedResidualInputs inputs = {};
  inputs.shape = ShapeOf(depthwise.stage.attributes, b.height, b.width);
  inputs.batch = random.Range(1, 2);
  inputs.x_scale = 0.019f;
  inputs.expand = expand.inputs;
  inputs.depthwise = depthwise.inputs;
  inputs.project = project.inputs;
  const int64_t elements = inputs.batch * inputs.shape.InPixels() * b.in;
  const std::vector<uint8_t> codes = RandomCodes(random, f.x, elements);
  const std::vector<float> floats =
      ImageOfCodes(codes, f.x, inputs.batch, inputs.shape.InPixels(), b.in, inputs.x_scale);
  inputs.x = f.x_float ? static_cast<const void*>(floats.data()) : codes.data();
  InvertedResidualStages stages = {b.has_expand, expand.stage, depthwise.stage, project.stage};
  (b.has_expand ? stages.expand : stages.depthwise).x.x_codes = !f.x_float;

  stages.project.packed.y = f.packed && f.y.high == kFourBitUnsignedHigh;
  const int64_t results = inputs.batch * inputs.shape.OutPixels() * b.out;
  const int64_t stored = stages.project.packed.y ? results / 2 : results;
  Guarded<Element> expected(stored);
  Guarded<Element> got(stored);
  Guarded<Element> in_order(stored);
  bool ran = RunStages(stages, inputs, codes.data(), expected.data());
  const bool x_packed = f.packed && !f.x_float && f.x.high == kFourBitUnsignedHigh;
  const std::vector<uint8_t> packed = Packed(codes);
  if (x_packed) inputs.x = packed.data();
  (b.has_expand ? stages.expand : stages.depthwise).packed.x = x_packed;
  stages.project.packed.residual = x_packed && f.residual;
  const InvertedResidual block(stages);
  inputs.y = got.data();
  ran = block.Run(inputs, Backwards()) && ran;
  inputs.y = in_order.data();
  ran = block.Run(inputs, kInOrder) && ran;
  char where[160];
  std::snprintf(
      where, sizeof where,
      "%dx%d, channels %d %d %d, kernel %d stride %d, residual %d, x %s high %d, y high %d",
      static_cast<int>(b.height), static_cast<int>(b.width), static_cast<int>(b.in),
      static_cast<int>(b.expanded), static_cast<int>(b.out), static_cast<int>(b.kernel),
      static_cast<int>(b.stride), f.residual, f.x_float ? "float" : "codes", f.x.high, f.y.high);
  tally.Check(ran && got.Equals(expected) && in_order.Equals(expected), where);
}

// What the design promises: the expanded image of 56x56x192 codes, 588 KB, becomes 64 KB at most.
void Workspace(Random& random, Tally& tally) {
  const Block b = {32, 192, 32, 3, 1, 1, 56, 56, true};
  for (bool shift : {false, true}) {
    StageCase expand(random, Square(b.in, b.expanded, 1, 1, 0, 1), shift, kSigned, kUnsigned,
                     kRelu6, Residual::kNone);
    StageCase depthwise(random, Square(b.expanded, b.expanded, 3, 1, 1, b.expanded), false,
                        kUnsigned, kUnsigned, kRelu6, Residual::kNone);
    StageCase project(random, Square(b.expanded, b.out, 1, 1, 0, 1), shift, kUnsigned, kSigned,
                      kNoActivation, Residual::kAfterActivation);
    const InvertedResidual block({true, expand.stage, depthwise.stage, project.stage});
    const ConvShape shape = ShapeOf(depthwise.stage.attributes, b.height, b.width);
    char where[60];
    std::snprintf(where, sizeof where, "workspace of %d bytes",
                  static_cast<int>(block.WorkspaceBytes(shape)));
    tally.Check(block.WorkspaceBytes(shape) <= 64 * 1024, where);
  }
}

}  // namespace

std::vector<Tally> TestInvertedResidual() {
  std::vector<Tally> tallies = {TallyOf("inverted_residual")};
  Random random(22);
  const Block blocks[] = {
      {32, 96, 32, 3, 1, 1, 9, 9, true},   {16, 40, 16, 3, 1, 1, 7, 70, true},
      {24, 72, 40, 5, 2, 2, 11, 9, true},  {12, 20, 8, 7, 1, 3, 6, 8, true},
      {16, 33, 16, 3, 2, 1, 37, 5, true},  {32, 32, 32, 3, 1, 1, 8, 12, false},
      {20, 20, 12, 3, 2, 1, 9, 6, false},  {8, 48, 8, 3, 1, 0, 40, 33, true},
      {8, 16, 8, 3, 1, 2, 41, 6, true, 2}, {8, 16, 4, 1, 2, 0, 5, 5, true},
      {16, 16, 16, 5, 1, 2, 1, 1, true},   {12, 24, 12, 3, 2, 1, 56, 6, true},
      {16, 16, 16, 5, 2, 2, 97, 5, false},
  };
  int number = 0;
  for (const Block& b : blocks) {
    for (CodeRange x : {kSigned, kUnsigned, kFourBits}) {
      for (CodeRange y : {kSigned, kUnsigned, kFourBits, kFloats}) {
        const bool same =
            b.in == b.out && b.stride == 1 && 2 * b.pad == b.dilation * (b.kernel - 1);
        for (bool residual : {false, true}) {
          if (residual && !same) continue;
          Formats f = {
              x, number % 3 == 0 ? kSigned : kUnsigned, y, kRelu6, residual, false, false, true};
          if (number % 4 == 0) f.activation = kHardSwish;
          f.x_float = number % 5 == 0;
          f.packed = number % 7 != 0;
          f.shift = number % 2 == 0;
          auto* run = y.is_float() ? Case<float> : Case<uint8_t>;
          run(random, b, f, tallies[0]);
          ++number;
        }
      }
    }
  }
  Workspace(random, tallies[0]);
  return tallies;
}

}  // namespace edgefold::selftest
