// SPDX-License-Identifier: Apache-2.0
// What the operators of attention share: their shapes and their mask.
#pragma once

#include <vector>

#include "ops/attention.h"
#include "ort/operator.h"

namespace edgefold::ort {

// The shapes of q [B, H, rows, depth], k [B, G, keys, depth] and v [B, G, keys, values], where G
// divides H. Sets the error of operator `op` where they do not fit.
bool TakeAttentionShapes(const char* op, const Shape& q, const Shape& k, const Shape& v,
                         AttentionShape* out, Error* error);

// Takes a mask that broadcasts to [B, H, rows, keys] into `inputs`, whose shape is set; `offsets`
// is memory that must live as long.
bool TakeAttentionMask(const char* op, const Tensor& mask, const Shape& q,
                       std::vector<int64_t>* offsets, AttentionInputs* inputs, Error* error);

// Declares the output, [B, H, rows, values], of inputs q and v.
void InferAttention(const Api& api, OrtShapeInferContext* context, size_t q, size_t v,
                    Error* error);

}  // namespace edgefold::ort
