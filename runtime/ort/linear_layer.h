// SPDX-License-Identifier: Apache-2.0
// The inputs of a node that make a linear layer: codes, selectors, table, scales, bias, x_scale and
// x_shifts, in this order, and the attributes that say how to read them.
#pragma once

#include "ops/linear.h"
#include "ort/operator.h"

namespace edgefold::ort {

class LinearLayer {
 public:
  static constexpr size_t kInputs = 7;

  // `first` is the index of the layer's codes. Mistakes are set as the node's error.
  LinearLayer(const Node& node, size_t first);
  LinearLayer(const LinearLayer&) = delete;

  const Linear& linear() const { return linear_; }
  // The bias and the scale of x in this call; all else is left zero.
  LinearInputs Inputs(const Context& context, Error* error) const;

 private:
  const char* op_;
  size_t first_;
  Weights weights_;
  Linear linear_;
};

// Refuses an x that is not [..., k].
void ExpectRows(const char* op, const Tensor& x, int64_t k, Error* error);

// Null for the one zero that stands for no residual; refuses what has not the shape of y.
const float* ResidualRows(const char* op, const Tensor& residual, const Shape& y, Error* error);

// Declares the output: the shape of input `x` with the length of input `scales` last.
void InferRows(const Api& api, OrtShapeInferContext* context, size_t x, size_t scales,
               Error* error);

}  // namespace edgefold::ort
