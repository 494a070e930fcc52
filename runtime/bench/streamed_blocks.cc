// SPDX-License-Identifier: Apache-2.0
// What streaming the rows of bottleneck and ConvFirst blocks is worth, one thread:
// `build/bench_streamed_blocks`. The same ConvBlocks run on whole images, and on 2, 4 and 8 rows at
// a time, of which the two that the 3x3 convolution reads again are kept. Prints the best of many
// calls, and GOP/s (two operations a multiply-add).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <vector>

#include "bench/block_cases.h"
#include "ops/conv_block.h"

namespace edgefold::bench {
namespace {

struct Shape {
  int64_t size, outer, inner;
  bool conv_first;  // 3x3 in groups of 8, 1x1 to `inner`, 1x1 back; else 1x1, dense 3x3, 1x1
};

class Block {
 public:
  Block(const Shape& shape, int bits, Activation activation) : s_(shape) {
    const int64_t c = s_.outer;
    const int64_t first = s_.conv_first ? c : s_.inner;
    const int64_t group = s_.conv_first ? c / 8 : 1;
    const int at = s_.conv_first ? 0 : 1;
    const int64_t in[] = {c, first, s_.inner};
    const int64_t out[] = {first, s_.inner, c};
    weights_.reserve(3);
    for (int i = 0; i < 3; ++i) {
      weights_.emplace_back(i == at ? in[i] / group * 9 : in[i], out[i], bits);
      const bool plain = i == 2 || (s_.conv_first && i == 0);
      ConvStage stage = StageOf(weights_[i], in[i], i == at ? 3 : 1, 1, i == at ? group : 1,
                                kSigned, plain ? kNoActivation : activation, kSigned);
      if (i == 2) stage.residual = Residual::kAfterActivation;
      blocks_.emplace_back(stage);
      if (i != at) continue;
      stage.attributes.pads_begin[1] = stage.attributes.pads_end[1] = 0;
      strip_.emplace_back(stage);
    }
    x_.resize((s_.size + 2) * RowBytes());  // a row of zeros above and below
    for (int64_t i = RowBytes(); i < (s_.size + 1) * RowBytes(); ++i) {
      x_[i] = static_cast<uint8_t>(std::rand() % 255 - 127);
    }
    for (int i = 0; i < 3; ++i) whole_[i].resize(s_.size * s_.size * out[i]);
    y_.resize(whole_[2].size());
  }

  const std::vector<uint8_t>& RunWhole() {
    Run(blocks_[0], 0, X(0), s_.size, nullptr, whole_[0].data());
    Run(blocks_[1], 1, whole_[0].data(), s_.size, nullptr, whole_[1].data());
    Run(blocks_[2], 2, whole_[1].data(), s_.size, X(0), whole_[2].data());
    return whole_[2];
  }

  const std::vector<uint8_t>& RunRows(int64_t rows) {
    const int64_t row_bytes = static_cast<int64_t>(whole_[0].size()) / s_.size;
    ring_.assign((rows + 2) * row_bytes, 0);
    part_.resize(rows * whole_[1].size() / s_.size);
    int64_t made = 0;  // rows of the first convolution of a bottleneck
    for (int64_t row = 0; row < s_.size; row += rows) {
      const int64_t now = std::min(rows, s_.size - row);
      if (s_.conv_first) {
        Run(strip_[0], 0, X(row - 1), now + 2, nullptr, ring_.data());
        Run(blocks_[1], 1, ring_.data(), now, nullptr, part_.data());
      } else {
        if (row > 0) std::memmove(ring_.data(), ring_.data() + rows * row_bytes, 2 * row_bytes);
        const int64_t wanted = std::min(s_.size, row + now + 1);
        uint8_t* place = ring_.data() + (made - row + 1) * row_bytes;
        if (wanted > made) Run(blocks_[0], 0, X(made), wanted - made, nullptr, place);
        made = wanted;
        if (row + now == s_.size) std::memset(ring_.data() + (now + 1) * row_bytes, 0, row_bytes);
        Run(strip_[0], 1, ring_.data(), now + 2, nullptr, part_.data());
      }
      Run(blocks_[2], 2, part_.data(), now, X(row), y_.data() + row * RowBytes());
    }
    return y_;
  }

  double Operations() const {
    double sum = 0;
    for (const Weights& w : weights_) sum += 2.0 * w.matrix.k * w.matrix.n * s_.size * s_.size;
    return sum;
  }
  int64_t BytesBetween() const { return whole_[0].size() + whole_[1].size(); }

 private:
  int64_t RowBytes() const { return s_.size * s_.outer; }
  const uint8_t* X(int64_t row) const { return x_.data() + (row + 1) * RowBytes(); }

  void Run(const ConvBlock& block, int stage, const uint8_t* x, int64_t rows,
           const uint8_t* residual, uint8_t* y) const {
    ConvBlockInputs inputs = {};
    const int64_t size[] = {1, rows, s_.size};
    MakeConvShape(block.stage().attributes, size, &inputs.shape);
    inputs.x = x;
    inputs.batch = 1;
    inputs.x_scale = inputs.residual_scale = 0.02f;
    inputs.stage = {weights_[stage].bias.data(), false, 0.02f};
    inputs.residual = residual;
    inputs.y = y;
    block.Run(inputs, kOneThread);
  }

  Shape s_;
  std::vector<Weights> weights_;
  std::deque<ConvBlock> blocks_;
  std::deque<ConvBlock> strip_;  // the 3x3 one on rows that have their neighbours
  std::vector<uint8_t> x_, whole_[3], ring_, part_, y_;
};

void Measure(const Shape& s, int bits, Activation activation) {
  Block block(s, bits, activation);
  bool equal = true;
  for (int64_t rows : {2, 4, 8}) equal = equal && block.RunRows(rows) == block.RunWhole();
  double best[4];
  BestOf(
      best, [&] { block.RunWhole(); }, [&] { block.RunRows(2); }, [&] { block.RunRows(4); },
      [&] { block.RunRows(8); });
  std::printf(
      "%-10s %3lldx%-3lld %4lld-%-4lld %d bits  between %5lld KB  us: whole %6.0f (%3.0f GOP/s)"
      "  2 rows %6.0f (%.2fx)  4 rows %6.0f (%.2fx)  8 rows %6.0f (%.2fx)%s\n",
      s.conv_first ? "conv-first" : "bottleneck", static_cast<long long>(s.size),
      static_cast<long long>(s.size), static_cast<long long>(s.outer),
      static_cast<long long>(s.inner), bits, static_cast<long long>(block.BytesBetween() / 1024),
      best[0] * 1e6, block.Operations() / best[0] * 1e-9, best[1] * 1e6, best[0] / best[1],
      best[2] * 1e6, best[0] / best[2], best[3] * 1e6, best[0] / best[3],
      equal ? "" : "  NOT EQUAL");
}

}  // namespace
}  // namespace edgefold::bench

int main() {
  using edgefold::ActivationKind;
  using edgefold::bench::Shape;
  constexpr edgefold::Activation kRelu = {ActivationKind::kClip, 0.0f, 1e30f};
  constexpr edgefold::Activation kSilu = {ActivationKind::kSwish, 1.0f, 0.0f};
  constexpr Shape kShapes[] = {{56, 256, 64, false},  {28, 512, 128, false}, {14, 1024, 256, false},
                               {112, 256, 64, false}, {56, 64, 256, true},   {28, 128, 512, true},
                               {14, 256, 1024, true}, {112, 64, 256, true},  {224, 64, 256, true}};
  for (int bits : {4, 8}) {
    for (const Shape& shape : kShapes) {
      edgefold::bench::Measure(shape, bits, shape.conv_first ? kSilu : kRelu);
    }
  }
  return 0;
}
