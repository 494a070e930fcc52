// SPDX-License-Identifier: Apache-2.0
// FusedLinear(x, codes, selectors, table, scales, bias, x_scale, x_shifts, residual) -> y
#include "ort/linear_layer.h"

namespace edgefold::ort {
namespace {

class FusedLinear {
 public:
  static constexpr const char* kName = "FusedLinear";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8, kFloat,
                                        kFloat,   kFloat, kUint8, kFloat};
  static constexpr size_t kX = 0;
  static constexpr size_t kCodes = 1;
  static constexpr size_t kScales = 4;
  static constexpr size_t kResidual = kCodes + LinearLayer::kInputs;

  explicit FusedLinear(const Node& node) : layer_(node, kCodes), activation_(node.Function()) {}

  static FusedLinear* Create(const Node& node) { return new FusedLinear(node); }

  void Compute(const Context& context, Error* error) const {
    const Linear& linear = layer_.linear();
    const Tensor x = context.Input(kX, error);
    const Tensor residual = context.Input(kResidual, error);
    LinearInputs inputs = layer_.Inputs(context, error);
    ExpectElements(kName, x, linear.range(), error);
    ExpectRows(kName, x, linear.matrix().k, error);
    if (error->failed()) return;
    Shape shape = x.shape;
    inputs.x = x.data;
    inputs.rows = shape.Elements() / linear.matrix().k;
    shape.dims[shape.rank - 1] = linear.matrix().n;
    if (!IsIdentity(activation_)) inputs.activation = &activation_;
    inputs.residual = ResidualRows(kName, residual, shape, error);
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!linear.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferRows(api, context, kX, kScales, error);
  }

 private:
  LinearLayer layer_;
  Activation activation_;
};

}  // namespace

const CustomOp* FusedLinearOperator(int weight_bits) {
  return Operator<FusedLinear>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
