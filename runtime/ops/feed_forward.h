// SPDX-License-Identifier: Apache-2.0
// y = last(down(activation(up(x)))) + residual: the body of FusedFeedForward, without ONNX Runtime.
//
// Rows go through both layers a block at a time, so that the hidden tensor never exists as a whole
// and what exists of it stays in the cache. Each block does what Linear does on all rows, so the
// result is that of the two layers one after the other, in every bit.
#pragma once

#include "ops/linear.h"

namespace edgefold {

struct FeedForwardInputs {
  LinearInputs up;    // rows, x, bias and x_scale are read
  LinearInputs down;  // bias, x_scale, activation, residual and y are read
};

// Read-only once made; Run may be called from several threads at a time.
class FeedForward {
 public:
  // The layers must outlive this object; down.matrix().k == up.matrix().n, and down takes floats.
  FeedForward(const Linear& up, const Activation& activation, const Linear& down)
      : up_(up), activation_(activation), down_(down) {}

  // False when memory for the call could not be had.
  bool Run(const FeedForwardInputs& inputs, const Parallel& parallel) const;

 private:
  const Linear& up_;
  Activation activation_;
  const Linear& down_;
};

}  // namespace edgefold
