// SPDX-License-Identifier: Apache-2.0
// ShiftMatMul(x, codes, selectors, table, scales, bias, x_scale, x_shifts) -> y
#include "ort/linear_layer.h"

namespace edgefold::ort {
namespace {

class ShiftMatMul {
 public:
  static constexpr const char* kName = "ShiftMatMul";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8,
                                        kFloat,   kFloat, kFloat, kUint8};
  enum Input { kX, kCodes, kSelectors, kTable, kScales };

  explicit ShiftMatMul(const Node& node) : layer_(node, kCodes) {}

  static ShiftMatMul* Create(const Node& node) { return new ShiftMatMul(node); }

  void Compute(const Context& context, Error* error) const {
    const Linear& linear = layer_.linear();
    const Tensor x = context.Input(kX, error);
    LinearInputs inputs = layer_.Inputs(context, error);
    ExpectElements(kName, x, linear.range(), error);
    ExpectRows(kName, x, linear.matrix().k, error);
    if (error->failed()) return;
    Shape shape = x.shape;
    inputs.x = x.data;
    inputs.rows = shape.Elements() / linear.matrix().k;
    shape.dims[shape.rank - 1] = linear.matrix().n;
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!linear.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferRows(api, context, kX, kScales, error);
  }

 private:
  LinearLayer layer_;
};

}  // namespace

const CustomOp* ShiftMatMulOperator(int weight_bits) {
  return Operator<ShiftMatMul>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
