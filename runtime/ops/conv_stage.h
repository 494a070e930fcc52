// SPDX-License-Identifier: Apache-2.0
// One convolution of an integer region: what it is, and what a call gives it.
//
//   v[n]  = float(sum of x * W[., n]) * (x_scale * scales[n]) + bias[n]
//   v[n] += float(residual[n]) * residual_scale      where it is added before the activation
//   v[n]  = activation(v[n])
//   v[n] += float(residual[n]) * residual_scale      where it is added after it
//   y[n]  = clip(round_half_even(v[n] / y_scale), low, high)      v[n] itself where y stays float
//
// in float32, each operation rounded once (no fused multiply-add); the sum is exact.
//
// Codes have zero point 0 and lie channel-last, [batch][height][width][channels] bytes without
// gaps. Float images, a region's borders, lie either way: channel-first, as in most of a graph, or
// channel-last beside layers that work on pixels.
#pragma once

#include <cstdint>

#include "base/activation_range.h"
#include "base/packed_matrix.h"
#include "kernels/activation/activation.h"
#include "kernels/requantize/requantize.h"
#include "ops/conv_shape.h"

namespace edgefold {

// Which tensors hold codes of four bits, two a byte (ops/four_bit_codes.h), of an even number of
// channels.
struct PackedCodes {
  bool x;
  bool residual;
  bool y;
};

struct ConvStage {
  PackedMatrix matrix;        // k == taps * in_channels / group, at most 65536; n == out_channels
  const float* scales;        // [out_channels]
  ConvAttributes attributes;  // one or two spatial dimensions: sizes of dimension 0 are 1
  ActivationRange x;          // of codes; x_codes false: x is a float image, made codes first
  bool x_last;                // a float x lies channel-last; its range then has no steps
  Activation activation;      // kClip from -infinity to infinity: none
  Residual residual;
  bool residual_is_unsigned;
  CodeRange y;
  bool y_last;  // a float y lies channel-last
  PackedCodes packed;
};

struct StageInputs {
  const float* bias;  // [out_channels], or one value
  bool bias_is_scalar;
  float y_scale;  // 2^-64..2^64; of no meaning where y is float
};

}  // namespace edgefold
