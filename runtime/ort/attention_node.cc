// SPDX-License-Identifier: Apache-2.0
#include "ort/attention_node.h"

#include <vector>

namespace edgefold::ort {
namespace {

// 255 * 128 * keys and 32768 * keys must fit int32.
constexpr int64_t kMaxKeys = 65535;
constexpr int kAxes = 4;
constexpr int kJoinedAxes = 3;

// [B, rows, heads * columns] as [B, heads, rows, columns], without axes where it cannot be; what it
// was where no heads lie side by side.
Shape Split(const Shape& shape, int64_t heads) {
  if (heads == 0) return shape;
  if (shape.rank != kJoinedAxes || shape.dims[2] % heads != 0) return {};
  return {{shape.dims[0], heads, shape.dims[1], shape.dims[2] / heads}, kAxes};
}

// Takes a mask that broadcasts to [B, H, rows, keys] into `inputs`, whose shape is set; `offsets`
// is memory that must live as long.
bool TakeMask(const char* op, const Tensor& mask, const Shape& q, std::vector<int64_t>* offsets,
              AttentionInputs* inputs, Error* error) {
  const int64_t scores[kAxes] = {q.dims[0], q.dims[1], inputs->shape.rows, inputs->shape.keys};
  int64_t steps[kAxes] = {};  // along the axes of the scores; 0 where it has one value for all
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
    error->Set("%s: mask has shape %s; it must broadcast to [%lld,%lld,%lld,%lld]", op,
               ShapeText(mask.shape, text, sizeof text), static_cast<long long>(scores[0]),
               static_cast<long long>(scores[1]), static_cast<long long>(scores[2]),
               static_cast<long long>(scores[3]));
    return false;
  }
  if (mask.shape.Elements() == 1 && *mask.As<float>() == 0.0f) return true;
  offsets->resize(static_cast<size_t>(inputs->shape.QueryHeads()));
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

}  // namespace

AttentionNode::AttentionNode(const Node& node, int64_t heads, int64_t kv_heads)
    : op_(node.op()),
      scale_(node.Float("scale", 0.0f)),
      causal_(node.Int("causal", 0, 1) == 1),
      heads_(heads),
      kv_heads_(kv_heads) {}

AttentionShape AttentionNode::ShapeOf(const Shape& of_q, const Shape& of_k, const Shape& of_v,
                                      Error* error) const {
  const Shape q = Split(of_q, heads_);
  const Shape k = Split(of_k, kv_heads_);
  const Shape v = Split(of_v, kv_heads_);
  bool right = q.rank == kAxes && k.rank == kAxes && v.rank == kAxes;
  right = right && q.dims[0] == k.dims[0] && k.dims[0] == v.dims[0] && k.dims[1] == v.dims[1];
  const int64_t heads = right ? k.dims[1] : 0;
  const int64_t group = heads > 0 ? q.dims[1] / heads : 1;
  right = right && group * heads == q.dims[1] && (group > 0 || q.dims[1] == heads);
  right = right && q.dims[3] == k.dims[3] && k.dims[2] == v.dims[2] && q.dims[3] >= 1;
  if (!right) {
    RefuseShapes(of_q, of_k, of_v, error);
    return {};
  }
  if (k.dims[2] > kMaxKeys || q.dims[3] > kMaxKeys) {
    error->Set("%s: %lld keys of depth %lld; at most %lld of either", op_,
               static_cast<long long>(k.dims[2]), static_cast<long long>(q.dims[3]),
               static_cast<long long>(kMaxKeys));
  }
  return {q.dims[0] * heads, q.dims[2], k.dims[2], q.dims[3], v.dims[3], group};
}

void AttentionNode::RefuseShapes(const Shape& q, const Shape& k, const Shape& v,
                                 Error* error) const {
  char texts[3][100];
  ShapeText(q, texts[0], sizeof texts[0]);
  ShapeText(k, texts[1], sizeof texts[1]);
  ShapeText(v, texts[2], sizeof texts[2]);
  if (heads_ == 0) {
    return error->Set(
        "%s: q, k and v have shapes %s, %s and %s; expected [B, H, rows, depth], "
        "[B, G, keys, depth] and [B, G, keys, values], H a multiple of G",
        op_, texts[0], texts[1], texts[2]);
  }
  const long long own = static_cast<long long>(heads_);
  const long long shared = static_cast<long long>(kv_heads_);
  error->Set(
      "%s: q, k and v have shapes %s, %s and %s; expected [B, rows, %lld * depth], "
      "[B, keys, %lld * depth] and [B, keys, %lld * values], num_heads a multiple of kv_num_heads",
      op_, texts[0], texts[1], texts[2], own, shared, shared);
}

void AttentionNode::Run(const Context& context, const AttentionShape& shape, const Tensor& q,
                        const KeysAndValues& kv, const Tensor& mask, Error* error) const {
  if (error->failed()) return;
  const bool split = heads_ == 0;
  AttentionInputs inputs = {};
  inputs.shape = shape;
  inputs.q = q.As<float>();
  inputs.side_by_side = split ? 1 : heads_;
  inputs.kv = kv;
  inputs.kv.side_by_side = split ? 1 : kv_heads_;
  inputs.scale = scale_;
  inputs.causal = causal_;
  Shape y = Split(q.shape, heads_);
  std::vector<int64_t> offsets;
  if (!TakeMask(op_, mask, y, &offsets, &inputs, error)) return;
  y.dims[3] = shape.values;
  if (!split) y = {{y.dims[0], y.dims[2], heads_ * shape.values}, kJoinedAxes};
  inputs.y = static_cast<float*>(context.Output(y, error));
  if (error->failed()) return;
  if (!attention_.Run(inputs, context.Threads())) error->Set("%s: out of memory", op_);
}

void InferAttention(const Api& api, OrtShapeInferContext* context, size_t q, size_t v,
                    Error* error) {
  SymbolicShape queries;
  SymbolicShape values;
  if (!InferredInput(api, context, q, &queries) || queries.shape.rank != kAxes) return;
  if (!InferredInput(api, context, v, &values) || values.shape.rank != kAxes) return;
  queries.shape.dims[3] = values.shape.dims[3];
  queries.names[3] = values.names[3];
  InferredOutput(api, context, kFloat, queries, error);
}

}  // namespace edgefold::ort
