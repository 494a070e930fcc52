// SPDX-License-Identifier: Apache-2.0
// CachedAttention(q, k_codes, k_scales, v_codes, v_scales, mask) -> y
#include <vector>

#include "ort/attention_node.h"

namespace edgefold::ort {
namespace {

class CachedAttention {
 public:
  static constexpr const char* kName = "CachedAttention";
  static constexpr int kInputTypes[] = {kFloat, kInt8, kFloat, kInt8, kFloat, kFloat};
  enum Input { kQ, kKCodes, kKScales, kVCodes, kVScales, kMask };

  explicit CachedAttention(const Node& node)
      : scale_(node.Float("scale", 0.0f)), causal_(node.Int("causal", 0, 1) == 1) {}

  static CachedAttention* Create(const Node& node) { return new CachedAttention(node); }

  void Compute(const Context& context, Error* error) const {
    const Tensor q = context.Input(kQ, error);
    const Tensor k = context.Input(kKCodes, error);
    const Tensor k_scales = context.Input(kKScales, error);
    const Tensor v = context.Input(kVCodes, error);
    const Tensor v_scales = context.Input(kVScales, error);
    const Tensor mask = context.Input(kMask, error);
    AttentionInputs inputs = {};
    if (error->failed() ||
        !TakeAttentionShapes(kName, q.shape, k.shape, v.shape, &inputs.shape, error)) {
      return;
    }
    inputs.q = q.As<float>();
    inputs.kv = {nullptr,
                 nullptr,
                 k.As<int8_t>(),
                 v.As<int8_t>(),
                 k_scales.As<float>(),
                 v_scales.As<float>()};
    inputs.scale = scale_;
    inputs.causal = causal_;
    std::vector<int64_t> offsets;
    ExpectScales(k_scales, "k_scales", k.shape, error);
    ExpectScales(v_scales, "v_scales", v.shape, error);
    if (error->failed() || !TakeAttentionMask(kName, mask, q.shape, &offsets, &inputs, error)) {
      return;
    }
    Shape shape = q.shape;
    shape.dims[3] = inputs.shape.values;
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!attention_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferAttention(api, context, kQ, kVCodes, error);
  }

 private:
  static void ExpectScales(const Tensor& scales, const char* role, Shape codes, Error* error) {
    codes.dims[3] = 1;
    if (scales.shape.Is(codes.rank, codes.dims)) return;
    char texts[2][100];
    error->Set("%s: %s has shape %s; expected %s, one for each row of codes", kName, role,
               ShapeText(scales.shape, texts[0], 100), ShapeText(codes, texts[1], 100));
  }

  float scale_;
  bool causal_;
  Attention attention_;
};

}  // namespace

const CustomOp* CachedAttentionOperator() {
  static const CustomOp op = Operator<CachedAttention>::Make();
  return &op;
}

}  // namespace edgefold::ort
