// SPDX-License-Identifier: Apache-2.0
// CachedAttention(q, k_codes, k_scales, v_codes, v_scales, mask) -> y
#include "ort/attention_node.h"

namespace edgefold::ort {
namespace {

class CachedAttention {
 public:
  static constexpr const char* kName = "CachedAttention";
  static constexpr int kInputTypes[] = {kFloat, kInt8, kFloat, kInt8, kFloat, kFloat};
  enum Input { kQ, kKCodes, kKScales, kVCodes, kVScales, kMask };

  static CachedAttention* Create(const Node& node) { return new CachedAttention{node}; }

  void Compute(const Context& context, Error* error) const {
    const Tensor q = context.Input(kQ, error);
    const Tensor k = context.Input(kKCodes, error);
    const Tensor k_scales = context.Input(kKScales, error);
    const Tensor v = context.Input(kVCodes, error);
    const Tensor v_scales = context.Input(kVScales, error);
    const Tensor mask = context.Input(kMask, error);
    const AttentionShape shape = attention_.ShapeOf(q.shape, k.shape, v.shape, error);
    ExpectScales(k_scales, "k_scales", k.shape, error);
    ExpectScales(v_scales, "v_scales", v.shape, error);
    KeysAndValues kv = {};
    kv.k_codes = k.As<int8_t>();
    kv.v_codes = v.As<int8_t>();
    kv.k_scales = k_scales.As<float>();
    kv.v_scales = v_scales.As<float>();
    attention_.Run(context, shape, q, kv, mask, error);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferAttention(api, context, kQ, kVCodes, error);
  }

 private:
  explicit CachedAttention(const Node& node) : attention_(node) {}

  static void ExpectScales(const Tensor& scales, const char* role, Shape codes, Error* error) {
    codes.dims[3] = 1;
    if (scales.shape.Is(codes.rank, codes.dims)) return;
    char texts[2][100];
    error->Set("%s: %s has shape %s; expected %s, one for each row of codes", kName, role,
               ShapeText(scales.shape, texts[0], 100), ShapeText(codes, texts[1], 100));
  }

  AttentionNode attention_;
};

}  // namespace

const CustomOp* CachedAttentionOperator() {
  static const CustomOp op = Operator<CachedAttention>::Make();
  return &op;
}

}  // namespace edgefold::ort
