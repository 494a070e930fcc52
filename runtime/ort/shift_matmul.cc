// SPDX-License-Identifier: Apache-2.0
// ShiftMatMul(x, codes, selectors, table, scales, bias, x_scale, x_shifts) -> y
#include <cmath>
#include <utility>

#include "ops/linear.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

// 255 * 127 * K must fit int32.
constexpr int64_t kMaxIntegerDepth = 65536;

class ShiftMatMul {
 public:
  static constexpr const char* kName = "ShiftMatMul";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8,
                                        kFloat,   kFloat, kFloat, kUint8};
  enum Input { kX, kCodes, kSelectors, kTable, kScales, kBias, kXScale, kXShifts };

  ShiftMatMul(Weights weights, const ActivationRange& range)
      : weights_(std::move(weights)), linear_(weights_.matrix, weights_.scales, range) {}

  static ShiftMatMul* Create(const Node& node) {
    Weights weights = node.ReadWeights(kCodes);
    const PackedMatrix& matrix = weights.matrix;
    const ActivationRange range = node.Activations(kXShifts, matrix.k);
    Error* error = node.error();
    if (!range.is_float() && matrix.k > kMaxIntegerDepth) {
      error->Set("%s: k is %lld; quantized activations allow at most %lld", kName,
                 static_cast<long long>(matrix.k), static_cast<long long>(kMaxIntegerDepth));
    }
    if (error->failed()) return nullptr;
    return new ShiftMatMul(std::move(weights), range);
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(kX, error);
    const Tensor bias = context.Input(kBias, error);
    const Tensor x_scale = context.Input(kXScale, error);
    ExpectElements(kName, x, linear_.range(), error);
    if (error->failed()) return;
    LinearInputs inputs = {};
    inputs.x = x.data;
    inputs.bias = bias.As<float>();
    inputs.bias_is_scalar = CheckBias(bias, error);
    if (!linear_.range().is_float()) inputs.x_scale = CheckScale(x_scale, error);
    Shape shape = x.shape;
    const int64_t k = linear_.matrix().k;
    if (shape.rank < 1 || shape.dims[shape.rank - 1] != k) {
      char text[100];
      error->Set("%s: x has shape %s; expected [..., %lld]", kName,
                 ShapeText(shape, text, sizeof text), static_cast<long long>(k));
      return;
    }
    inputs.rows = shape.Elements() / k;
    shape.dims[shape.rank - 1] = linear_.matrix().n;
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!linear_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    SymbolicShape scales;
    if (!InferredInput(api, context, kX, &x) || x.shape.rank < 1) return;
    if (!InferredInput(api, context, kScales, &scales) || scales.shape.rank != 1) return;
    x.shape.dims[x.shape.rank - 1] = scales.shape.dims[0];
    x.names[x.shape.rank - 1] = scales.names[0];
    InferredOutput(api, context, kFloat, x, error);
  }

 private:
  bool CheckBias(const Tensor& bias, Error* error) const {
    const int64_t n = linear_.matrix().n;
    const bool right = bias.shape.rank == 1 && (bias.shape.dims[0] == n || bias.shape.dims[0] == 1);
    if (!right) {
      char text[100];
      error->Set("%s: bias has shape %s; expected [%lld] or [1]", kName,
                 ShapeText(bias.shape, text, sizeof text), static_cast<long long>(n));
    }
    return right && bias.shape.dims[0] == 1;
  }

  float CheckScale(const Tensor& x_scale, Error* error) const {
    if (x_scale.shape.Elements() != 1) {
      error->Set("%s: x_scale must hold one value", kName);
      return 0.0f;
    }
    const float scale = *x_scale.As<float>();
    if (!(scale >= 0.0f) || std::isinf(scale)) {
      error->Set("%s: x_scale is %g; expected 0 (dynamic) or a positive number", kName, scale);
      return 0.0f;
    }
    if (scale == 0.0f && linear_.range().x_codes) {
      error->Set("%s: x_scale is 0; expected a positive number where x holds codes", kName);
    }
    return scale;
  }

  Weights weights_;
  Linear linear_;
};

}  // namespace

const CustomOp* ShiftMatMulOperator(int weight_bits) {
  return Operator<ShiftMatMul>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
