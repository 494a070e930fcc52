// SPDX-License-Identifier: Apache-2.0
// A layer of experts behind a router: the body of ShiftMoE, without ONNX Runtime.
//
//   y[t] = sum over the experts e with gates[t][e] != 0, in ascending order, of
//          gates[t][e] * down_e(hidden_e(x[t]))
//   hidden_e(x) = activation(min(gate_e(x), limit)) * (clip(up_e(x), -limit, limit) + up_offset)
//
// where gate, up and down are products of int8 rows, quantized with one scale a row, and packed
// weights, with a bias; without up, hidden is the activation alone. A token's row is quantized
// once, for gate and up of all its experts. Rows are grouped by expert, so that an expert's weights
// are read once for all its tokens, and not at all without any.
#pragma once

#include <vector>

#include "base/parallel.h"
#include "kernels/activation/activation.h"
#include "kernels/quantize/quantize.h"
#include "ops/operand_rows.h"
#include "ops/panel_product.h"

namespace edgefold {

// The same product of every expert; all matrices are of one shape.
struct ExpertProducts {
  std::vector<PanelProduct> experts;
  const float* bias;  // [experts][N], or one value
  bool bias_is_scalar;
};

struct Gating {
  Activation activation;
  float limit;  // infinity: none
  float up_offset;
};

struct MoeInputs {
  const float* x;      // [tokens][K]
  const float* gates;  // [tokens][experts]
  int64_t tokens;
  float* y;  // [tokens][K]
};

// Read-only once made; Run may be called from several threads at a time.
class MixtureOfExperts {
 public:
  // `up` has no experts where the layer has no such product.
  MixtureOfExperts(ExpertProducts gate, ExpertProducts up, ExpertProducts down,
                   const Gating& gating);

  // False when memory for the call could not be had.
  bool Run(const MoeInputs& inputs, const Parallel& parallel) const;

  int64_t experts() const { return static_cast<int64_t>(gate_.experts.size()); }
  int64_t k() const { return gate_.experts.front().matrix().k; }
  int64_t hidden() const { return gate_.experts.front().matrix().n; }

 private:
  struct Call;   // what the tasks of one Run share
  struct Block;  // of hidden values

  bool HasUp() const { return !up_.experts.empty(); }
  void QuantizeTokens(const Call& call, const OperandRows& tokens) const;
  bool Hidden(const Call& call, const OperandRows& tokens, float* values) const;
  void Gate(const Block& block, const float* factors) const;
  bool Down(const Call& call, const OperandRows& hidden_codes, float* results) const;
  void Combine(const Call& call, const float* results) const;

  ExpertProducts gate_;
  ExpertProducts up_;
  ExpertProducts down_;
  Gating gating_;
  QuantizeKernel* quantize_;
  ActivationKernel* activate_;
};

}  // namespace edgefold
