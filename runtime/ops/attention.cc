// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/rounding.h"
#include "base/scratch.h"
#include "ops/operand_rows.h"

namespace edgefold {
namespace {

constexpr int64_t kRowsPerBlock = 32;  // with 512 keys the scores of a block take 64 KB

int64_t PanelBytes(int64_t columns, int64_t depth) {
  return CeilDiv(columns, kPanelColumns) * CeilDiv(depth, kUnitDepth) * kUnitCodes;
}

}  // namespace

struct Attention::Call {
  const AttentionInputs& inputs;
  const AttentionShape& shape;
  int8_t* k_panels;  // of one head after the other
  int8_t* v_panels;
  float* k_scales;  // [heads][keys], times the scale of the products
  float* v_scales;  // [heads][keys]
  float* ones;      // [values]

  int64_t KeyPanelBytes() const { return PanelBytes(shape.keys, shape.depth); }
  int64_t ValuePanelBytes() const { return PanelBytes(shape.values, shape.keys); }
};

struct Attention::Block {
  int64_t head;
  int64_t first;
  int64_t rows;
  int64_t keys;    // that its last row sees
  int64_t stride;  // of a row of scores and of weights
};

Attention::Attention()
    : quantize_(QuantizeKernels().Choose().run),
      quantize_panels_(QuantizePanelsKernels().Choose().run),
      gemm_(GemmKernels().Choose().run),
      softmax_(SoftmaxKernels().Choose().run),
      epilogue_(EpilogueKernels().Choose().run) {}

bool Attention::Run(const AttentionInputs& inputs, const Parallel& parallel) const {
  const AttentionShape& shape = inputs.shape;
  if (shape.heads * shape.rows * shape.values == 0) return true;
  Call call = {inputs, shape, nullptr, nullptr, nullptr, nullptr, nullptr};
  const int64_t panel_bytes = shape.heads * (call.KeyPanelBytes() + call.ValuePanelBytes());
  const Scratch memory =
      AllocateScratch(panel_bytes + (shape.heads * 2 * shape.keys + shape.values) * 4);
  if (memory == nullptr) return false;
  call.k_panels = reinterpret_cast<int8_t*>(memory.get());
  call.v_panels = call.k_panels + shape.heads * call.KeyPanelBytes();
  call.k_scales = reinterpret_cast<float*>(memory.get() + panel_bytes);
  call.v_scales = call.k_scales + shape.heads * shape.keys;
  call.ones = call.v_scales + shape.heads * shape.keys;
  std::fill_n(call.ones, shape.values, 1.0f);

  parallel.For(shape.heads, [&](size_t head) { PackHead(call, static_cast<int64_t>(head)); });
  std::atomic<bool> enough_memory{true};
  const int64_t blocks = CeilDiv(shape.rows, kRowsPerBlock);
  parallel.For(shape.heads * blocks, [&](size_t index) {
    Block block = {};
    block.head = static_cast<int64_t>(index) / blocks;
    block.first = static_cast<int64_t>(index) % blocks * kRowsPerBlock;
    block.rows = std::min(kRowsPerBlock, shape.rows - block.first);
    const int64_t seen = shape.keys - shape.rows + block.first + block.rows;
    block.keys = inputs.causal ? std::clamp(seen, int64_t{0}, shape.keys) : shape.keys;
    block.stride = RoundUp(block.keys, kGroupDepth);
    if (!RunBlock(call, block)) enough_memory = false;
  });
  return enough_memory;
}

void Attention::PackHead(const Call& call, int64_t head) const {
  const AttentionShape& shape = call.shape;
  const AttentionInputs& inputs = call.inputs;
  float* scales = call.k_scales + head * shape.keys;
  quantize_panels_({inputs.k + head * shape.keys * shape.depth, shape.keys, shape.depth, true,
                    call.k_panels + head * call.KeyPanelBytes(), scales});
  for (int64_t n = 0; n < shape.keys; ++n) scales[n] *= inputs.scale;
  quantize_panels_({inputs.v + head * shape.keys * shape.values, shape.keys, shape.values, false,
                    call.v_panels + head * call.ValuePanelBytes(),
                    call.v_scales + head * shape.keys});
}

bool Attention::RunBlock(const Call& call, const Block& block) const {
  const AttentionShape& shape = call.shape;
  const OperandRows queries(block.rows, shape.depth, false);
  const int64_t wide = std::max(block.stride, RoundUp(shape.values, kPanelColumns));
  const Scratch memory = AllocateScratch(block.rows * (wide * 4 + block.stride * 5 + 4));
  if (!queries.ok() || memory == nullptr) return false;
  int32_t* acc = reinterpret_cast<int32_t*>(memory.get());            // [rows][wide]
  float* scores = reinterpret_cast<float*>(acc + block.rows * wide);  // [rows][stride]
  float* steps = scores + block.rows * block.stride;                  // [rows]
  uint8_t* codes = reinterpret_cast<uint8_t*>(steps + block.rows);    // [rows][stride]

  QuantizeArguments q = {};
  q.x = call.inputs.q + (block.head * shape.rows + block.first) * shape.depth;
  q.rows = block.rows;
  q.columns = shape.depth;
  q.low = -127;
  q.high = 127;
  queries.Receive(0, &q);
  quantize_(q);
  Scores(call, block, queries.Rows(0, block.rows), queries.Scales(0), acc, scores);
  Weights(call, block, scores, codes, steps);

  const Activations weights = {
      codes, block.stride, block.rows, true, nullptr, nullptr, block.stride / kGroupDepth};
  const int64_t pitch = CeilDiv(shape.keys, kUnitDepth) * kUnitCodes;
  const int64_t units = std::max<int64_t>(CeilDiv(block.keys, kUnitDepth), 1);
  const int8_t* panels = call.v_panels + block.head * call.ValuePanelBytes();
  for (int64_t n = 0; n < shape.values && block.keys > 0; n += kPanelColumns) {
    gemm_(weights, panels + n / kPanelColumns * pitch, 1, units, acc + n, wide);
  }
  if (block.keys == 0) std::memset(acc, 0, static_cast<size_t>(block.rows * wide * 4));
  const float zero = 0.0f;
  epilogue_({acc, wide, block.rows, shape.values, steps, call.ones, &zero, true,
             call.inputs.y + (block.head * shape.rows + block.first) * shape.values, shape.values});
  return true;
}

void Attention::Scores(const Call& call, const Block& block, const Activations& q,
                       const float* q_scales, int32_t* acc, float* scores) const {
  const int64_t panels = CeilDiv(block.keys, kPanelColumns);
  if (panels == 0) return;
  const int64_t width = panels * kPanelColumns;
  gemm_(q, call.k_panels + block.head * call.KeyPanelBytes(), panels,
        CeilDiv(call.shape.depth, kUnitDepth), acc, width);
  const float zero = 0.0f;
  epilogue_({acc, width, block.rows, block.keys, q_scales,
             call.k_scales + block.head * call.shape.keys, &zero, true, scores, block.stride});
  const AttentionInputs& inputs = call.inputs;
  if (inputs.mask == nullptr) return;
  const float* mask = inputs.mask + inputs.mask_head_offsets[block.head];
  for (int64_t m = 0; m < block.rows; ++m) {
    const float* added = mask + (block.first + m) * inputs.mask_row_stride;
    float* row = scores + m * block.stride;
    if (inputs.mask_key_stride == 0) {
      for (int64_t n = 0; n < block.keys; ++n) row[n] += *added;
    } else {
      for (int64_t n = 0; n < block.keys; ++n) row[n] += added[n];
    }
  }
}

void Attention::Weights(const Call& call, const Block& block, float* scores, uint8_t* codes,
                        float* steps) const {
  const float* factors = call.v_scales + block.head * call.shape.keys;
  if (!call.inputs.causal) {
    return softmax_(
        {scores, block.stride, block.rows, block.keys, factors, codes, block.stride, steps});
  }
  const int64_t before = call.shape.keys - call.shape.rows + block.first;
  for (int64_t m = 0; m < block.rows; ++m) {
    const int64_t seen = std::clamp(before + m + 1, int64_t{0}, block.keys);
    softmax_({scores + m * block.stride, block.stride, 1, seen, factors, codes + m * block.stride,
              block.stride, steps + m});
  }
}

}  // namespace edgefold
