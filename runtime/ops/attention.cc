// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

#include <algorithm>
#include <atomic>

#include "base/rounding.h"
#include "base/scratch.h"
#include "ops/head_rows.h"

namespace edgefold {
namespace {

constexpr int64_t kLinesPerBlock = 32;  // with 512 keys the scores of a block take 64 KB
constexpr float kZero = 0.0f;

}  // namespace

struct Attention::Block {
  int64_t head;
  int64_t first;
  int64_t lines;
  int64_t keys;    // that some line sees
  int64_t stride;  // of a line of scores and of weights

  // Calls visit(first line, head of queries, its row, lines) for the lines of each head of queries.
  template <typename Visit>
  void ForEachHead(const AttentionShape& shape, const Visit& visit) const {
    for (int64_t m = 0, some = 0; m < lines; m += some) {
      const int64_t row = (first + m) % shape.rows;
      some = std::min(lines - m, shape.rows - row);
      visit(m, head * shape.group + (first + m) / shape.rows, row, some);
    }
  }
};

Attention::Attention()
    : quantize_(QuantizeKernels().Choose().run),
      softmax_(SoftmaxKernels().Choose().run),
      epilogue_(EpilogueKernels().Choose().run) {}

bool Attention::Run(const AttentionInputs& inputs, const Parallel& parallel) const {
  const AttentionShape& shape = inputs.shape;
  const int64_t lines = shape.Lines();
  if (shape.heads * lines * shape.values == 0) return true;
  const KeyValueOperands operands(kernels_, inputs.kv,
                                  {shape.heads, shape.keys, shape.depth, shape.values}, lines);
  if (!operands.ok()) return false;
  const int64_t blocks = CeilDiv(lines, kLinesPerBlock);
  const bool at_once = blocks == 1;  // operands are used while they are in the cache
  if (!at_once) {
    parallel.For(shape.heads,
                 [&](size_t head) { operands.Prepare(static_cast<int64_t>(head), inputs.scale); });
  }
  std::atomic<bool> enough_memory{true};
  parallel.For(shape.heads * blocks, [&](size_t index) {
    Block block = {};
    block.head = static_cast<int64_t>(index) / blocks;
    block.first = static_cast<int64_t>(index) % blocks * kLinesPerBlock;
    block.lines = std::min(kLinesPerBlock, lines - block.first);
    const int64_t last = block.first % shape.rows + block.lines;  // of the first head's rows
    const int64_t seen = shape.keys - shape.rows + std::min(last, shape.rows);
    block.keys = inputs.causal ? std::clamp(seen, int64_t{0}, shape.keys) : shape.keys;
    block.stride = RoundUp(block.keys, kGroupDepth);
    if (at_once) operands.Prepare(block.head, inputs.scale);
    if (!RunBlock(inputs, operands, block)) enough_memory = false;
  });
  return enough_memory;
}

bool Attention::RunBlock(const AttentionInputs& inputs, const KeyValueOperands& operands,
                         const Block& block) const {
  const AttentionShape& shape = inputs.shape;
  if (block.keys == 0) {
    FillZeros(inputs, block);
    return true;
  }
  const OperandRows queries(block.lines, shape.depth, false);
  const int64_t wide = std::max(operands.KeyColumns(block.keys), operands.ValueColumns());
  const int64_t bytes = block.lines * (wide * 4 + block.stride * 5 + 4) + shape.values * 4;
  const Scratch memory = AllocateScratch(bytes);
  if (!queries.ok() || memory == nullptr) return false;
  int32_t* acc = reinterpret_cast<int32_t*>(memory.get());             // [lines][wide]
  float* scores = reinterpret_cast<float*>(acc + block.lines * wide);  // [lines][stride]
  float* steps = scores + block.lines * block.stride;                  // [lines]
  float* ones = steps + block.lines;                                   // [values]
  uint8_t* codes = reinterpret_cast<uint8_t*>(ones + shape.values);    // [lines][stride]
  std::fill_n(ones, shape.values, 1.0f);

  Quantize(inputs, block, queries);
  Scores(inputs, operands, block, queries.Rows(0, block.lines), queries.Scales(0), acc, scores);
  Weights(inputs, operands.ValueScales(block.head), block, scores, codes, steps);
  const Activations weights = {
      codes, block.stride, block.lines, true, nullptr, nullptr, block.stride / kGroupDepth};
  operands.SumValues(block.head, weights, block.keys, acc, wide);
  const HeadRows at = {shape.rows, shape.values, inputs.side_by_side};
  block.ForEachHead(shape, [&](int64_t m, int64_t head, int64_t row, int64_t rows) {
    float* y = inputs.y + at.Offset(head) + row * at.Stride();
    epilogue_(
        {acc + m * wide, wide, rows, shape.values, steps + m, ones, &kZero, true, y, at.Stride()});
  });
  return true;
}

void Attention::FillZeros(const AttentionInputs& inputs, const Block& block) {
  const HeadRows at = {inputs.shape.rows, inputs.shape.values, inputs.side_by_side};
  block.ForEachHead(inputs.shape, [&](int64_t, int64_t head, int64_t row, int64_t rows) {
    float* y = inputs.y + at.Offset(head) + row * at.Stride();
    for (int64_t i = 0; i < rows; ++i) std::fill_n(y + i * at.Stride(), at.columns, 0.0f);
  });
}

void Attention::Quantize(const AttentionInputs& inputs, const Block& block,
                         const OperandRows& queries) const {
  const HeadRows at = {inputs.shape.rows, inputs.shape.depth, inputs.side_by_side};
  QuantizeArguments q = {};
  q.x_stride = at.Stride();
  q.columns = at.columns;
  q.low = -127;
  q.high = 127;
  block.ForEachHead(inputs.shape, [&](int64_t m, int64_t head, int64_t row, int64_t rows) {
    q.x = inputs.q + at.Offset(head) + row * at.Stride();
    q.rows = rows;
    queries.Receive(m, &q);
    quantize_(q);
  });
}

void Attention::Scores(const AttentionInputs& inputs, const KeyValueOperands& operands,
                       const Block& block, const Activations& q, const float* q_scales,
                       int32_t* acc, float* scores) const {
  const int64_t width = operands.KeyColumns(block.keys);
  operands.DotKeys(block.head, q, block.keys, acc, width);
  EpilogueArguments e = {
      acc,    width, block.lines, block.keys,  q_scales, operands.KeyScales(block.head),
      &kZero, true,  scores,      block.stride};
  if (inputs.mask == nullptr) return epilogue_(e);
  // The mask is the bias of the epilogue, of as many lines at a time as share it.
  e.bias_is_scalar = inputs.mask_key_stride == 0;
  for (int64_t m = 0; m < block.lines; m += e.rows) {
    e.acc = acc + m * width;
    e.row_scales = q_scales + m;
    e.y = scores + m * block.stride;
    e.bias = MaskOf(inputs, block, m);
    e.rows = 1;
    while (m + e.rows < block.lines && MaskOf(inputs, block, m + e.rows) == e.bias) ++e.rows;
    epilogue_(e);
  }
}

const float* Attention::MaskOf(const AttentionInputs& inputs, const Block& block, int64_t m) {
  const AttentionShape& shape = inputs.shape;
  const int64_t line = block.first + m;
  const int64_t head = block.head * shape.group + line / shape.rows;
  return inputs.mask + inputs.mask_head_offsets[head] + line % shape.rows * inputs.mask_row_stride;
}

void Attention::Weights(const AttentionInputs& inputs, const float* factors, const Block& block,
                        float* scores, uint8_t* codes, float* steps) const {
  const AttentionShape& shape = inputs.shape;
  if (!inputs.causal) {
    return softmax_(
        {scores, block.stride, block.lines, block.keys, factors, codes, block.stride, steps});
  }
  for (int64_t m = 0; m < block.lines; ++m) {
    const int64_t row = (block.first + m) % shape.rows;
    const int64_t seen = std::clamp(shape.keys - shape.rows + row + 1, int64_t{0}, block.keys);
    softmax_({scores + m * block.stride, block.stride, 1, seen, factors, codes + m * block.stride,
              block.stride, steps + m});
  }
}

}  // namespace edgefold
