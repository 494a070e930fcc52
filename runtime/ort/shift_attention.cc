// SPDX-License-Identifier: Apache-2.0
// ShiftAttention(q, k, v, mask) -> y
#include <vector>

#include "ops/attention.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

// 255 * 127 * keys and 32768 * keys must fit int32.
constexpr int64_t kMaxKeys = 65535;
constexpr int kAxes = 4;

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
    if (error->failed() || !TakeShapes(q.shape, k.shape, v.shape, &inputs.shape, error)) return;
    inputs.q = q.As<float>();
    inputs.k = k.As<float>();
    inputs.v = v.As<float>();
    inputs.scale = scale_;
    inputs.causal = causal_;
    const int64_t scores[kAxes] = {q.shape.dims[0], q.shape.dims[1], inputs.shape.rows,
                                   inputs.shape.keys};
    std::vector<int64_t> offsets(static_cast<size_t>(inputs.shape.heads));
    if (!TakeMask(mask, scores, &offsets, &inputs, error)) return;
    Shape shape = q.shape;
    shape.dims[3] = inputs.shape.values;
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!attention_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape q;
    SymbolicShape v;
    if (!InferredInput(api, context, kQ, &q) || q.shape.rank != kAxes) return;
    if (!InferredInput(api, context, kV, &v) || v.shape.rank != kAxes) return;
    q.shape.dims[3] = v.shape.dims[3];
    q.names[3] = v.names[3];
    InferredOutput(api, context, kFloat, q, error);
  }

 private:
  static bool TakeShapes(const Shape& q, const Shape& k, const Shape& v, AttentionShape* out,
                         Error* error) {
    bool right = q.rank == kAxes && k.rank == kAxes && v.rank == kAxes;
    for (int i = 0; right && i < 2; ++i) {
      right = q.dims[i] == k.dims[i] && q.dims[i] == v.dims[i];
    }
    right = right && q.dims[3] == k.dims[3] && k.dims[2] == v.dims[2] && q.dims[3] >= 1;
    if (!right) {
      char texts[3][100];
      error->Set(
          "%s: q, k and v have shapes %s, %s and %s; expected [B, H, rows, depth], "
          "[B, H, keys, depth] and [B, H, keys, values]",
          kName, ShapeText(q, texts[0], 100), ShapeText(k, texts[1], 100),
          ShapeText(v, texts[2], 100));
      return false;
    }
    *out = {q.dims[0] * q.dims[1], q.dims[2], k.dims[2], q.dims[3], v.dims[3]};
    if (out->keys > kMaxKeys || out->depth > kMaxKeys) {
      error->Set("%s: %lld keys of depth %lld; at most %lld of either", kName,
                 static_cast<long long>(out->keys), static_cast<long long>(out->depth),
                 static_cast<long long>(kMaxKeys));
    }
    return !error->failed();
  }

  // Steps of the mask along the axes of the scores; 0 where it has one value for all.
  static bool TakeMask(const Tensor& mask, const int64_t scores[kAxes],
                       std::vector<int64_t>* offsets, AttentionInputs* inputs, Error* error) {
    int64_t steps[kAxes] = {};
    int64_t step = 1;
    bool right = mask.shape.rank == kAxes;
    for (int i = kAxes - 1; right && i >= 0; --i) {
      const int64_t size = mask.shape.dims[i];
      right = size == 1 || size == scores[i];
      steps[i] = size == 1 ? 0 : step;
      step *= size;
    }
    if (!right) {
      char text[100];
      error->Set("%s: mask has shape %s; it must broadcast to [%lld,%lld,%lld,%lld]", kName,
                 ShapeText(mask.shape, text, sizeof text), static_cast<long long>(scores[0]),
                 static_cast<long long>(scores[1]), static_cast<long long>(scores[2]),
                 static_cast<long long>(scores[3]));
      return false;
    }
    if (mask.shape.Elements() == 1 && *mask.As<float>() == 0.0f) return true;
    for (size_t head = 0; head < offsets->size(); ++head) {
      const int64_t h = static_cast<int64_t>(head);
      (*offsets)[head] = h / scores[1] * steps[0] + h % scores[1] * steps[1];
    }
    inputs->mask = mask.As<float>();
    inputs->mask_head_offsets = offsets->data();
    inputs->mask_row_stride = steps[2];
    inputs->mask_key_stride = steps[3];
    return true;
  }

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
