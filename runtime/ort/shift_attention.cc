// SPDX-License-Identifier: Apache-2.0
// ShiftAttention(q, k, v, mask) -> y, and ShiftMultiHeadAttention, whose heads lie side by side.
#include "ort/attention_node.h"

namespace edgefold::ort {
namespace {

constexpr int64_t kMaxHeads = 65535;

class ShiftAttention {
 public:
  static constexpr const char* kName = "ShiftAttention";
  static constexpr int kInputTypes[] = {kFloat, kFloat, kFloat, kFloat};
  enum Input { kQ, kK, kV, kMask };

  static ShiftAttention* Create(const Node& node) {
    return new ShiftAttention(AttentionNode(node));
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor q = context.Input(kQ, error);
    const Tensor k = context.Input(kK, error);
    const Tensor v = context.Input(kV, error);
    const Tensor mask = context.Input(kMask, error);
    const AttentionShape shape = attention_.ShapeOf(q.shape, k.shape, v.shape, error);
    KeysAndValues kv = {};
    kv.k = k.As<float>();
    kv.v = v.As<float>();
    attention_.Run(context, shape, q, kv, mask, error);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferAttention(api, context, kQ, kV, error);
  }

 protected:
  explicit ShiftAttention(const AttentionNode& attention) : attention_(attention) {}

 private:
  AttentionNode attention_;
};

class ShiftMultiHeadAttention : public ShiftAttention {
 public:
  static constexpr const char* kName = "ShiftMultiHeadAttention";

  static ShiftMultiHeadAttention* Create(const Node& node) {
    return new ShiftMultiHeadAttention(
        {node, node.Int("num_heads", 1, kMaxHeads), node.Int("kv_num_heads", 1, kMaxHeads)});
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape y;
    SymbolicShape values;
    if (!InferredInput(api, context, kQ, &y) || y.shape.rank != 3) return;
    if (!InferredInput(api, context, kV, &values) || values.shape.rank != 3) return;
    const int64_t heads = InferredInt(api, context, "num_heads");
    const int64_t kv_heads = InferredInt(api, context, "kv_num_heads");
    if (heads < 1 || kv_heads < 1 || values.shape.dims[2] < 0) return;
    y.shape.dims[2] = values.shape.dims[2] / kv_heads * heads;
    InferredOutput(api, context, kFloat, y, error);
  }

 private:
  using ShiftAttention::ShiftAttention;
};

}  // namespace

const CustomOp* ShiftAttentionOperator() {
  static const CustomOp op = Operator<ShiftAttention>::Make();
  return &op;
}

const CustomOp* ShiftMultiHeadAttentionOperator() {
  static const CustomOp op = Operator<ShiftMultiHeadAttention>::Make();
  return &op;
}

}  // namespace edgefold::ort
