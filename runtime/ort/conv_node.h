// SPDX-License-Identifier: Apache-2.0
// What the nodes with a convolution share: its attributes, its output's shape, its operands.
#pragma once

#include "ops/conv_shape.h"
#include "ort/operator.h"

namespace edgefold::ort {

// The attributes kernel_shape, strides, pads, dilations and group, for these weights; `rank` is the
// number of spatial dimensions, 1 to 3.
ConvAttributes ReadConvAttributes(const Node& node, const PackedMatrix& matrix, int* rank);

// The attributes of a 1x1 convolution that these weights belong to.
ConvAttributes PointwiseAttributes(const PackedMatrix& matrix);

// Room for the names of sizes that follow from others.
struct SizeNames {
  char text[kSpatialDims][160];
};

// A list attribute of `count` numbers from `low` to kMaxConvAttribute; false where it is not that.
bool InferredInts(const Api& api, OrtShapeInferContext* context, const char* name, int64_t low,
                  int count, int64_t* out);

// Turns the shape [batch, channels, spatial] of x into that of y, whose channels are those of the
// input `scales`, as far as sizes are known; false where they are not.
bool InferConvShape(const Api& api, OrtShapeInferContext* context, size_t scales,
                    SymbolicShape* shape, SizeNames* names);

// Input `index`, float32 [channels] or [1], and whether it is one value for all.
const float* ReadBias(const char* op, const Context& context, size_t index, int64_t channels,
                      bool* is_scalar, Error* error);

// Input `index`, which holds one positive number.
float ReadScale(const char* op, const Context& context, size_t index, const char* role,
                Error* error);

}  // namespace edgefold::ort
