// SPDX-License-Identifier: Apache-2.0
// What a node says about itself when its kernel is created: attributes and constant inputs.
#pragma once

#include <vector>

#include "base/activation_range.h"
#include "base/packed_matrix.h"
#include "kernels/activation/activation.h"
#include "ops/narrow.h"
#include "ort/tensor.h"

namespace edgefold::ort {

// A node's weights: the stored ones, or those of the narrower width that the session asks for.
struct Weights {
  PackedMatrix matrix = {};
  const float* scales = nullptr;  // [n]
  NarrowMatrix narrow;            // memory of a narrower matrix and its scales
  std::vector<float> narrow_scales;
};

// Packed matrices of one form: a single one, or a stack of them.
struct PackedStack {
  std::vector<PackedMatrix> matrices;
  const float* scales;  // [matrices][n]
};

class Node {
 public:
  // `op` is the operator's name, for messages. Errors gather in `error`. weight_bits: the width
  // that the session asks for where a node stores it, or 0.
  Node(const Api& api, const OrtKernelInfo* info, const char* op, Error* error, int weight_bits)
      : api_(api), info_(info), op_(op), error_(error), weight_bits_(weight_bits) {}

  // The same node, where attributes of one of its layers are named with this prefix.
  Node Layer(const char* prefix) const;

  // A required attribute within [low, high].
  int64_t Int(const char* name, int64_t low, int64_t high) const;
  // An attribute that has a default, within [low, high].
  int64_t IntOr(const char* name, int64_t fallback, int64_t low, int64_t high) const;
  // A required float attribute of at least `low`.
  float Float(const char* name, float low) const;
  // A required list attribute; returns its length, at most `capacity`.
  int Ints(const char* name, int64_t* out, int capacity) const;
  // Input `index`, which must be an initializer of this element type.
  Tensor Constant(size_t index, const char* role, int type) const;
  // The five properties of a packed weight: checks the shapes of codes, selectors, table and scales
  // (inputs first .. first + 3) against each other and against the attributes k, bits and layout.
  // Narrows it where the session asks for a width that the attribute narrow_bits holds.
  Weights ReadWeights(size_t first) const;
  // The packed matrices of inputs first .. first + 3, checked as above; `k` is the attribute that
  // holds their depth. Where stacked, each input has a leading dimension, that of the experts.
  PackedStack ReadStack(size_t first, const char* k, bool stacked) const;
  // How activations of `channels` channels are quantized: the attributes activation_low and
  // activation_high and x_codes, and input `shifts`, uint8 [channels] or [1].
  ActivationRange Activations(size_t shifts, int64_t channels) const;
  // The same where all channels have one step: the attributes alone.
  ActivationRange CodeActivations() const;
  // The activation function that the attributes function, alpha and beta name.
  Activation Function() const;
  // The same; where there is no attribute `function`, none.
  Activation FunctionOrNone() const;

  // Refuses a tensor of another shape.
  void Expect(const Tensor& tensor, const char* role, const Shape& wanted) const;

  const char* op() const { return op_; }
  Error* error() const { return error_; }

 private:
  std::vector<PackedMatrix> Matrices(const PackedMatrix& form, int64_t count, const Tensor& codes,
                                     const Tensor& selectors, const Tensor& table) const;
  // Fills `narrow` of the weights where the node stores the width asked for.
  void NarrowWeights(Weights* weights) const;
  void InputName(size_t index, char* out, size_t size) const;

  const Api& api_;
  const OrtKernelInfo* info_;
  const char* op_;
  Error* error_;
  int weight_bits_;
  const char* prefix_ = "";
};

// Refuses an x whose element type is not what `range` asks for.
void ExpectElements(const char* op, const Tensor& x, const ActivationRange& range, Error* error);

}  // namespace edgefold::ort
