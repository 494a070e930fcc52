// SPDX-License-Identifier: Apache-2.0
// The convolutions of fused nodes: stages as their attributes and inputs describe them.
#pragma once

#include "ops/conv_stage.h"
#include "ort/conv_node.h"

namespace edgefold::ort {

// The attributes low, high and dtype of codes, or of floats where high is 0.
CodeRange ReadCodeRange(const Node& layer);

// Whether the attribute `name`, which may be left out, says that codes of a range and a number of
// channels lie two a byte; refuses those that cannot.
bool ReadPacked(const Node& node, const char* name, const CodeRange& range, int64_t channels);

// A fused node's activations between its stages, as the next stage takes them.
ActivationRange AsActivations(const CodeRange& codes);

// Whether images lie channel-last, as `name` says: "x_perm" from their own order to channel-first,
// "y_perm" back. Refuses what is neither order, and codes that do not lie channel-last.
bool ReadOrder(const Node& node, const char* name, bool is_codes);

// Input `index` of a y that is codes (1 where it is float): one number that a code may stand for.
float ReadCodeScale(const char* op, const Context& context, size_t index, const char* role,
                    Error* error);

// Shapes and sizes of an image of two spatial dimensions, [batch, channels, height, width] or,
// channel-last, [batch, height, width, channels]. False where `x` is not one that the convolution
// fits.
bool ReadImageShape(const ConvAttributes& attributes, const Shape& x, bool is_last, int64_t* batch,
                    ConvShape* shape);
Shape ImageShape(int64_t batch, int64_t channels, const ConvShape& shape, bool is_last);

// The shape of a channel-last image whose tensor has the shape `stored`, and the other way.
Shape Unpacked(const Shape& stored, bool is_packed);
Shape Stored(const Shape& image, bool is_packed);

// Declares y of a fused node: from input 0, the attributes of its convolution, and how x and y lie.
void InferImage(const Api& api, OrtShapeInferContext* context, size_t scales, int y_type,
                Error* error);

}  // namespace edgefold::ort
