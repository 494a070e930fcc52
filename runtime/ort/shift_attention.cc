// SPDX-License-Identifier: Apache-2.0
// ShiftAttention(q, k, v, mask) -> y
#include <vector>

#include "ort/attention_node.h"

namespace edgefold::ort {
namespace {

class ShiftAttention {
 public:
  static constexpr const char* kName = "ShiftAttention";
  static constexpr int kInputTypes[] = {kFloat, kFloat, kFloat, kFloat};
  enum Input { kQ, kK, kV, kMask };

  explicit ShiftAttention(const Node& node)
      : scale_(node.Float("scale", 0.0f)), causal_(node.Int("causal", 0, 1) == 1) {}

  static ShiftAttention* Create(const Node& node) { return new ShiftAttention(node); }

  void Compute(const Context& context, Error* error) const {
    const Tensor q = context.Input(kQ, error);
    const Tensor k = context.Input(kK, error);
    const Tensor v = context.Input(kV, error);
    const Tensor mask = context.Input(kMask, error);
    AttentionInputs inputs = {};
    if (error->failed() ||
        !TakeAttentionShapes(kName, q.shape, k.shape, v.shape, &inputs.shape, error)) {
      return;
    }
    inputs.q = q.As<float>();
    inputs.kv.k = k.As<float>();
    inputs.kv.v = v.As<float>();
    inputs.scale = scale_;
    inputs.causal = causal_;
    std::vector<int64_t> offsets;
    if (!TakeAttentionMask(kName, mask, q.shape, &offsets, &inputs, error)) return;
    Shape shape = q.shape;
    shape.dims[3] = inputs.shape.values;
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!attention_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferAttention(api, context, kQ, kV, error);
  }

 private:
  float scale_;
  bool causal_;
  Attention attention_;
};

}  // namespace

const CustomOp* ShiftAttentionOperator() {
  static const CustomOp op = Operator<ShiftAttention>::Make();
  return &op;
}

}  // namespace edgefold::ort
