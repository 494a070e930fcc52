// SPDX-License-Identifier: Apache-2.0
#include "ort/linear_layer.h"

#include <cmath>

namespace edgefold::ort {
namespace {

enum Input { kCodes, kSelectors, kTable, kScales, kBias, kXScale, kXShifts };

ActivationRange Range(const Node& node, size_t shifts, int64_t k) {
  ActivationRange range = node.Activations(shifts, k);
  if (!range.is_float() && k > kMaxIntegerDepth) {
    node.error()->Set("%s: k is %lld; quantized activations allow at most %lld", node.op(),
                      static_cast<long long>(k), static_cast<long long>(kMaxIntegerDepth));
  }
  return range;
}

bool CheckBias(const char* op, const Tensor& bias, int64_t n, Error* error) {
  const bool right = bias.shape.rank == 1 && (bias.shape.dims[0] == n || bias.shape.dims[0] == 1);
  if (!right) {
    char text[100];
    error->Set("%s: bias has shape %s; expected [%lld] or [1]", op,
               ShapeText(bias.shape, text, sizeof text), static_cast<long long>(n));
  }
  return right && bias.shape.dims[0] == 1;
}

float CheckScale(const char* op, const Tensor& x_scale, bool x_codes, Error* error) {
  if (x_scale.shape.Elements() != 1) {
    error->Set("%s: x_scale must hold one value", op);
    return 0.0f;
  }
  const float scale = *x_scale.As<float>();
  if (!(scale >= 0.0f) || std::isinf(scale)) {
    error->Set("%s: x_scale is %g; expected 0 (dynamic) or a positive number", op, scale);
    return 0.0f;
  }
  if (scale == 0.0f && x_codes) {
    error->Set("%s: x_scale is 0; expected a positive number where x holds codes", op);
  }
  return scale;
}

}  // namespace

LinearLayer::LinearLayer(const Node& node, size_t first)
    : op_(node.op()),
      first_(first),
      weights_(node.ReadWeights(first + kCodes)),
      linear_(weights_.matrix, weights_.scales, Range(node, first + kXShifts, weights_.matrix.k)) {}

LinearInputs LinearLayer::Inputs(const Context& context, Error* error) const {
  const Tensor bias = context.Input(first_ + kBias, error);
  const Tensor x_scale = context.Input(first_ + kXScale, error);
  LinearInputs inputs = {};
  if (error->failed()) return inputs;
  const ActivationRange& range = linear_.range();
  inputs.bias = bias.As<float>();
  inputs.bias_is_scalar = CheckBias(op_, bias, linear_.matrix().n, error);
  if (!range.is_float()) inputs.x_scale = CheckScale(op_, x_scale, range.x_codes, error);
  return inputs;
}

void ExpectRows(const char* op, const Tensor& x, int64_t k, Error* error) {
  const Shape& shape = x.shape;
  if (error->failed() || (shape.rank >= 1 && shape.dims[shape.rank - 1] == k)) return;
  char text[100];
  error->Set("%s: x has shape %s; expected [..., %lld]", op, ShapeText(shape, text, sizeof text),
             static_cast<long long>(k));
}

const float* ResidualRows(const char* op, const Tensor& residual, const Shape& y, Error* error) {
  if (error->failed() || residual.shape.Is(y.rank, y.dims)) return residual.As<float>();
  const int64_t one[] = {1};
  if (residual.shape.Is(1, one) && *residual.As<float>() == 0.0f) return nullptr;
  char is[100];
  char expected[100];
  error->Set("%s: residual has shape %s; expected %s, or one zero", op,
             ShapeText(residual.shape, is, sizeof is), ShapeText(y, expected, sizeof expected));
  return nullptr;
}

void InferRows(const Api& api, OrtShapeInferContext* context, size_t x, size_t scales,
               Error* error) {
  SymbolicShape rows;
  SymbolicShape columns;
  if (!InferredInput(api, context, x, &rows) || rows.shape.rank < 1) return;
  if (!InferredInput(api, context, scales, &columns) || columns.shape.rank != 1) return;
  rows.shape.dims[rows.shape.rank - 1] = columns.shape.dims[0];
  rows.names[rows.shape.rank - 1] = columns.names[0];
  InferredOutput(api, context, kFloat, rows, error);
}

}  // namespace edgefold::ort
