// SPDX-License-Identifier: Apache-2.0
// What the operators of attention share: their attributes, shapes and mask, and the call.
#pragma once

#include "ops/attention.h"
#include "ort/operator.h"

namespace edgefold::ort {

// q is [B, H, rows, depth], k [B, G, keys, depth] and v [B, G, keys, values], where G divides H;
// the mask broadcasts to [B, H, rows, keys], and the output is [B, H, rows, values]. Where heads
// lie side by side, q is [B, rows, H * depth] and so on, and the output likewise.
class AttentionNode {
 public:
  explicit AttentionNode(const Node& node) : AttentionNode(node, 0, 0) {}
  // Of heads side by side: H and G.
  AttentionNode(const Node& node, int64_t heads, int64_t kv_heads);

  // Sets the error where the shapes do not fit.
  AttentionShape ShapeOf(const Shape& q, const Shape& k, const Shape& v, Error* error) const;
  // Does nothing where there is an error already.
  void Run(const Context& context, const AttentionShape& shape, const Tensor& q,
           const KeysAndValues& kv, const Tensor& mask, Error* error) const;

 private:
  void RefuseShapes(const Shape& q, const Shape& k, const Shape& v, Error* error) const;

  const char* op_;
  float scale_;
  bool causal_;
  int64_t heads_;  // 0: not side by side
  int64_t kv_heads_;
  Attention attention_;
};

// Declares the output, [B, H, rows, values], of inputs q and v with heads split.
void InferAttention(const Api& api, OrtShapeInferContext* context, size_t q, size_t v,
                    Error* error);

}  // namespace edgefold::ort
