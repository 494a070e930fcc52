// SPDX-License-Identifier: Apache-2.0
// softmax(q . k' * scale + mask) . v of every head on integer operands: the body of ShiftAttention
// and of CachedAttention, without ONNX Runtime.
//
// Rows of q, k and v are int8 with a scale each, rows of attention weights uint8 with the scales of
// v in them (softmax.h), so that a result depends on the keys that its query sees alone. Keys and
// values are those of a cache of codes, or quantized here (key_value_operands.h); then blocks of
// queries go through scores, softmax and values while their scores are in the cache.
#pragma once

#include "base/activations.h"
#include "base/parallel.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/quantize/quantize.h"
#include "kernels/softmax/softmax.h"
#include "ops/key_value_operands.h"
#include "ops/operand_rows.h"

namespace edgefold {

struct AttentionShape {
  int64_t heads;      // of keys and values, of all samples: batch times heads
  int64_t rows;       // queries of a head
  int64_t keys;       // at most 65535, so that sums fit int32
  int64_t depth;      // of a query and a key
  int64_t values;     // of a value and a result
  int64_t group = 1;  // heads of queries that share one of keys and values

  int64_t QueryHeads() const { return heads * group; }
  // Queries of a head of keys: those of its heads of queries, one head after the other.
  int64_t Lines() const { return group * rows; }
};

struct AttentionInputs {
  AttentionShape shape;
  const float* q;  // of every head of queries, [rows][depth]
  KeysAndValues kv;
  float scale;  // of the products
  bool causal;  // query i of the last `rows` of all positions sees keys up to its own
  // Added to the scores, mask[query head][row][key] at mask + head_offsets[query head] +
  // row * mask_row_stride + key * mask_key_stride (0 or 1); or null.
  const float* mask;
  const int64_t* mask_head_offsets;  // [query heads]
  int64_t mask_row_stride;
  int64_t mask_key_stride;
  float* y;                  // of every head of queries, [rows][values]
  int64_t side_by_side = 1;  // heads of q and of y that lie beside one another in a row
};

// Read-only once made; Run may be called from several threads at a time.
class Attention {
 public:
  Attention();

  // False when memory for the call could not be had.
  bool Run(const AttentionInputs& inputs, const Parallel& parallel) const;

 private:
  struct Block;  // some lines of a head

  bool RunBlock(const AttentionInputs& inputs, const KeyValueOperands& operands,
                const Block& block) const;
  void Quantize(const AttentionInputs& inputs, const Block& block,
                const OperandRows& queries) const;
  static void FillZeros(const AttentionInputs& inputs, const Block& block);
  void Scores(const AttentionInputs& inputs, const KeyValueOperands& operands, const Block& block,
              const Activations& q, const float* q_scales, int32_t* acc, float* scores) const;
  // What is added to the scores of a line of a block.
  static const float* MaskOf(const AttentionInputs& inputs, const Block& block, int64_t line);
  void Weights(const AttentionInputs& inputs, const float* factors, const Block& block,
               float* scores, uint8_t* codes, float* steps) const;

  KeyValueKernels kernels_;
  QuantizeKernel* quantize_;
  SoftmaxKernel* softmax_;
  EpilogueKernel* epilogue_;
};

}  // namespace edgefold
