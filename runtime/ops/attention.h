// SPDX-License-Identifier: Apache-2.0
// softmax(q . k' * scale + mask) . v of every head on integer operands: the body of ShiftAttention,
// without ONNX Runtime.
//
// Rows of q, k and v become int8 with a scale each, rows of attention weights uint8 with the scales
// of v in them (softmax.h), so that a result depends on the keys that its query sees alone. Keys
// and values of a head are quantized once, into the panels that the integer products read; then
// blocks of queries go through scores, softmax and values while their scores are in the cache.
#pragma once

#include "base/activations.h"
#include "base/parallel.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/quantize_panels/quantize_panels.h"
#include "kernels/softmax/softmax.h"

namespace edgefold {

struct AttentionShape {
  int64_t heads;   // of all samples: batch times heads
  int64_t rows;    // queries
  int64_t keys;    // at most 65535, so that sums fit int32
  int64_t depth;   // of a query and a key
  int64_t values;  // of a value and a result
};

struct AttentionInputs {
  AttentionShape shape;
  const float* q;  // [heads][rows][depth]
  const float* k;  // [heads][keys][depth]
  const float* v;  // [heads][keys][values]
  float scale;     // of the products
  bool causal;     // query i of the last `rows` of all positions sees keys up to its own
  // Added to the scores, mask[head][row][key] at mask + head_offsets[head] + row * mask_row_stride
  // + key * mask_key_stride (0 or 1); or null.
  const float* mask;
  const int64_t* mask_head_offsets;  // [heads]
  int64_t mask_row_stride;
  int64_t mask_key_stride;
  float* y;  // [heads][rows][values]
};

// Read-only once made; Run may be called from several threads at a time.
class Attention {
 public:
  Attention();

  // False when memory for the call could not be had.
  bool Run(const AttentionInputs& inputs, const Parallel& parallel) const;

 private:
  struct Call;   // what the tasks of one Run share
  struct Block;  // some queries of a head

  void PackHead(const Call& call, int64_t head) const;
  bool RunBlock(const Call& call, const Block& block) const;
  void Scores(const Call& call, const Block& block, const Activations& q, const float* q_scales,
              int32_t* acc, float* scores) const;
  void Weights(const Call& call, const Block& block, float* scores, uint8_t* codes,
               float* steps) const;

  QuantizeKernel* quantize_;
  QuantizePanelsKernel* quantize_panels_;
  GemmKernel* gemm_;
  SoftmaxKernel* softmax_;
  EpilogueKernel* epilogue_;
};

}  // namespace edgefold
