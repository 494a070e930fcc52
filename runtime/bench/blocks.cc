// SPDX-License-Identifier: Apache-2.0
// Speed of inverted residual blocks, one thread: each convolution alone, the three in turn, and the
// fused block: `build/bench_blocks`. Prints the best of many calls, and GOP/s (two operations a
// multiply-add).
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/block_cases.h"
#include "ops/conv_block.h"
#include "ops/inverted_residual.h"

namespace edgefold::bench {
namespace {

struct Shape {
  int64_t size, in, expanded, out, kernel, stride;
};

void Run(const Shape& s, int bits, Activation activation, const char* name) {
  const CodeRange inner = activation.kind == ActivationKind::kClip ? kUnsigned : kSigned;
  const Weights expand(s.in, s.expanded, bits);
  const Weights depthwise(s.kernel * s.kernel, s.expanded, 8);
  const Weights project(s.expanded, s.out, bits);
  InvertedResidualStages stages = {
      true, StageOf(expand, s.in, 1, 1, 1, kSigned, activation, inner),
      StageOf(depthwise, s.expanded, s.kernel, s.stride, s.expanded, inner, activation, inner),
      StageOf(project, s.expanded, 1, 1, 1, inner, kNoActivation, kSigned)};
  if (s.in == s.out && s.stride == 1) stages.project.residual = Residual::kAfterActivation;
  const ConvBlock blocks[] = {ConvBlock(stages.expand), ConvBlock(stages.depthwise),
                              ConvBlock(stages.project)};
  const InvertedResidual fused(stages);

  ConvShape shapes[3];
  const int64_t size[] = {1, s.size, s.size};
  MakeConvShape(stages.expand.attributes, size, &shapes[0]);
  MakeConvShape(stages.depthwise.attributes, size, &shapes[1]);
  MakeConvShape(stages.project.attributes, shapes[1].out, &shapes[2]);
  std::vector<uint8_t> x(shapes[0].InPixels() * s.in);
  for (uint8_t& code : x) code = static_cast<uint8_t>(std::rand() % 255 - 127);
  std::vector<uint8_t> wide(shapes[0].OutPixels() * s.expanded);
  std::vector<uint8_t> filtered(shapes[1].OutPixels() * s.expanded);
  std::vector<uint8_t> y(shapes[2].OutPixels() * s.out);
  const StageInputs given[] = {{expand.bias.data(), false, 0.02f},
                               {depthwise.bias.data(), false, 0.02f},
                               {project.bias.data(), false, 0.02f}};
  const ConvBlockInputs inputs[] = {
      {x.data(), 1, shapes[0], 0.02f, given[0], nullptr, 0, wide.data()},
      {wide.data(), 1, shapes[1], 0.02f, given[1], nullptr, 0, filtered.data()},
      {filtered.data(), 1, shapes[2], 0.02f, given[2], x.data(), 0.02f, y.data()}};
  const InvertedResidualInputs all = {x.data(), 1,        shapes[1], 0.02f,
                                      given[0], given[1], given[2],  y.data()};
  double best[4];
  BestOf(
      best, [&] { blocks[0].Run(inputs[0], kOneThread); },
      [&] { blocks[1].Run(inputs[1], kOneThread); }, [&] { blocks[2].Run(inputs[2], kOneThread); },
      [&] { fused.Run(all, kOneThread); });
  const double macs[] = {
      static_cast<double>(shapes[0].OutPixels() * s.in * s.expanded),
      static_cast<double>(shapes[1].OutPixels() * s.expanded * s.kernel * s.kernel),
      static_cast<double>(shapes[2].OutPixels() * s.expanded * s.out)};
  const auto rate = [](double mac, double seconds) { return mac * 2e-9 / seconds; };
  const double unfused = best[0] + best[1] + best[2];
  const double total = macs[0] + macs[1] + macs[2];
  std::printf(
      "%3lldx%-3lld %3lld-%3lld-%3lld k%lld s%lld %d bits %-10s us: expand %6.0f depthwise %6.0f "
      "project %6.0f sum %6.0f fused %6.0f (%.2fx)  GOP/s: %4.0f %4.0f %4.0f  %4.0f %4.0f  "
      "workspace %lld KB\n",
      static_cast<long long>(s.size), static_cast<long long>(s.size), static_cast<long long>(s.in),
      static_cast<long long>(s.expanded), static_cast<long long>(s.out),
      static_cast<long long>(s.kernel), static_cast<long long>(s.stride), bits, name, best[0] * 1e6,
      best[1] * 1e6, best[2] * 1e6, unfused * 1e6, best[3] * 1e6, unfused / best[3],
      rate(macs[0], best[0]), rate(macs[1], best[1]), rate(macs[2], best[2]), rate(total, unfused),
      rate(total, best[3]), static_cast<long long>(fused.WorkspaceBytes(shapes[1]) / 1024));
}

}  // namespace
}  // namespace edgefold::bench

int main(int argc, char**) {
  using edgefold::ActivationKind;
  constexpr edgefold::Activation kRelu6 = {ActivationKind::kClip, 0.0f, 6.0f};
  constexpr edgefold::Activation kHardSwish = {ActivationKind::kHardSwish, 1.0f / 6, 0.5f};
  constexpr edgefold::Activation kSilu = {ActivationKind::kSwish, 1.0f, 0.0f};
  constexpr edgefold::bench::Shape kShapes[] = {{56, 32, 192, 32, 3, 1},  {28, 64, 384, 64, 3, 1},
                                                {14, 96, 576, 96, 3, 1},  {7, 160, 960, 160, 3, 1},
                                                {112, 16, 96, 24, 3, 2},  {28, 40, 240, 40, 5, 1},
                                                {128, 32, 192, 32, 3, 1}, {256, 32, 192, 32, 3, 1}};
  for (const edgefold::bench::Shape& shape : kShapes) {
    if (argc > 1 && &shape != kShapes) break;
    for (int bits : {8, 4}) edgefold::bench::Run(shape, bits, kRelu6, "relu6");
    edgefold::bench::Run(shape, 4, kHardSwish, "hard-swish");
    edgefold::bench::Run(shape, 4, kSilu, "silu");
  }
  return 0;
}
