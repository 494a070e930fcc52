// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "bench/instructions/cases.h"
#include "ops/attention.h"
#include "ops/conv_block.h"
#include "ops/feed_forward.h"
#include "ops/inverted_residual.h"
#include "ops/linear.h"
#include "ops/test/stage_cases.h"

namespace edgefold::instructions {
namespace {

using namespace selftest;

constexpr Activation kSilu = {ActivationKind::kSwish, 1.0f, 0.0f};

std::vector<float> Floats(Random& random, int64_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = random.Uniform();
  return values;
}

// The layers of MiniLM and, for one row, of BERT.
void LinearLayers(Random& random) {
  const ActivationRange range = {-127, 127, false, {}};
  const float bias = 0.0f;
  const auto count = [&](const char* name, int64_t rows, int64_t k, int64_t n, Tables tables) {
    const RandomMatrix m(random, 4, k, n, tables);
    const std::vector<float> scales(n, 0.01f), x = Floats(random, rows * k);
    std::vector<float> y(rows * n);
    const Linear layer(m.matrix, scales.data(), range);
    const LinearInputs inputs = {x.data(), rows, &bias, true, 0.0f, nullptr, nullptr, y.data()};
    Count(name, [&] { layer.Run(inputs, Backwards()); });
  };
  count("linear 16x384x1536 shift 4", 16, 384, 1536, Tables::kShift);
  count("linear 1x768x3072 shift 4", 1, 768, 3072, Tables::kShift);
  count("linear 1x384x1536 shift-lut 4", 1, 384, 1536, Tables::kSymmetric);
}

void FeedForwardBlock(Random& random) {
  constexpr int64_t kRows = 16, kWidth = 384, kHidden = 1536;
  const ActivationRange range = {-127, 127, false, {}};
  const RandomMatrix up(random, 4, kWidth, kHidden, Tables::kShift);
  const RandomMatrix down(random, 4, kHidden, kWidth, Tables::kShift);
  const std::vector<float> scales(kHidden, 0.002f), x = Floats(random, kRows * kWidth);
  std::vector<float> y(kRows * kWidth);
  const Linear first(up.matrix, scales.data(), range), second(down.matrix, scales.data(), range);
  const FeedForward block(first, {ActivationKind::kGelu, 0.0f, 0.0f}, second);
  const float bias = 0.0f;
  const LinearInputs inputs = {x.data(), kRows, &bias, true, 0.0f, nullptr, nullptr, y.data()};
  Count("feed_forward 16x384x1536 gelu", [&] { block.Run({inputs, inputs}, Backwards()); });
}

void AttentionHeads(Random& random) {
  constexpr AttentionShape kShape = {2, 128, 128, 32, 32};
  const int64_t size = kShape.heads * kShape.keys * kShape.depth;
  const std::vector<float> q = Floats(random, size), k = Floats(random, size),
                           v = Floats(random, size);
  std::vector<float> y(size);
  AttentionInputs inputs = {};
  inputs.shape = kShape;
  inputs.q = q.data();
  inputs.kv.k = k.data();
  inputs.kv.v = v.data();
  inputs.scale = 0.177f;
  inputs.y = y.data();
  const Attention attention;
  Count("attention 2 heads 128x128x32", [&] { attention.Run(inputs, Backwards()); });
}

// The 3x3 convolution of CIFAR ResNet-20 at 16x16.
void Convolution(Random& random) {
  const StageCase c(random, Square(32, 32, 3, 1, 1, 1), true, kUnsigned, kUnsigned,
                    {ActivationKind::kClip, 0.0f, 6.0f}, Residual::kNone);
  const int64_t size[] = {1, 16, 16};
  ConvBlockInputs inputs = {};
  MakeConvShape(c.stage.attributes, size, &inputs.shape);
  const std::vector<uint8_t> x = RandomCodes(random, kUnsigned, inputs.shape.InPixels() * 32);
  std::vector<uint8_t> y(inputs.shape.OutPixels() * 32);
  inputs.x = x.data();
  inputs.batch = 1;
  inputs.x_scale = 0.02f;
  inputs.stage = c.inputs;
  inputs.y = y.data();
  const ConvBlock block(c.stage);
  Count("conv_block 16x16 3x3x32x32", [&] { block.Run(inputs, Backwards()); });
}

// A block of MobileNetV2 at 14x14, and the same with the activations of later networks.
void InvertedResiduals(Random& random) {
  constexpr int64_t kSize = 14, kNarrow = 64, kWide = 384;
  const auto count = [&](const char* name, Activation activation, CodeRange inner) {
    const StageCase expand(random, Square(kNarrow, kWide, 1, 1, 0, 1), true, kSigned, inner,
                           activation, Residual::kNone);
    const StageCase depthwise(random, Square(kWide, kWide, 3, 1, 1, kWide), false, inner, inner,
                              activation, Residual::kNone);
    const StageCase project(random, Square(kWide, kNarrow, 1, 1, 0, 1), true, inner, kSigned,
                            kNoActivation, Residual::kBeforeActivation);
    const InvertedResidual block({true, expand.stage, depthwise.stage, project.stage});
    const std::vector<uint8_t> x = RandomCodes(random, kSigned, kSize * kSize * kNarrow);
    std::vector<uint8_t> y(x.size());
    const int64_t size[] = {1, kSize, kSize};
    InvertedResidualInputs inputs = {
        x.data(), 1, {}, 0.02f, expand.inputs, depthwise.inputs, project.inputs, y.data()};
    MakeConvShape(depthwise.stage.attributes, size, &inputs.shape);
    Count(name, [&] { block.Run(inputs, Backwards()); });
  };
  count("inverted_residual 14x14 64-384-64 relu6", kRelu6, kUnsigned);
  count("inverted_residual 14x14 64-384-64 hard-swish", kHardSwish, kSigned);
  count("inverted_residual 14x14 64-384-64 swish", kSilu, kSigned);
}

}  // namespace

void CountLayers() {
  Random random(4);
  LinearLayers(random);
  FeedForwardBlock(random);
  AttentionHeads(random);
  Convolution(random);
  InvertedResiduals(random);
}

}  // namespace edgefold::instructions
