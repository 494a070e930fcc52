// SPDX-License-Identifier: Apache-2.0
#include "ort/attention_node.h"

namespace edgefold::ort {
namespace {

// 255 * 128 * keys and 32768 * keys must fit int32.
constexpr int64_t kMaxKeys = 65535;
constexpr int kAxes = 4;

}  // namespace

bool TakeAttentionShapes(const char* op, const Shape& q, const Shape& k, const Shape& v,
                         AttentionShape* out, Error* error) {
  bool right = q.rank == kAxes && k.rank == kAxes && v.rank == kAxes;
  right = right && q.dims[0] == k.dims[0] && k.dims[0] == v.dims[0] && k.dims[1] == v.dims[1];
  const int64_t heads = right ? k.dims[1] : 0;
  const int64_t group = heads > 0 ? q.dims[1] / heads : 1;
  right = right && group * heads == q.dims[1] && (group > 0 || q.dims[1] == heads);
  right = right && q.dims[3] == k.dims[3] && k.dims[2] == v.dims[2] && q.dims[3] >= 1;
  if (!right) {
    char texts[3][100];
    error->Set(
        "%s: q, k and v have shapes %s, %s and %s; expected [B, H, rows, depth], "
        "[B, G, keys, depth] and [B, G, keys, values], H a multiple of G",
        op, ShapeText(q, texts[0], 100), ShapeText(k, texts[1], 100), ShapeText(v, texts[2], 100));
    return false;
  }
  *out = {q.dims[0] * heads, q.dims[2], k.dims[2], q.dims[3], v.dims[3], group};
  if (out->keys > kMaxKeys || out->depth > kMaxKeys) {
    error->Set("%s: %lld keys of depth %lld; at most %lld of either", op,
               static_cast<long long>(out->keys), static_cast<long long>(out->depth),
               static_cast<long long>(kMaxKeys));
  }
  return !error->failed();
}

bool TakeAttentionMask(const char* op, const Tensor& mask, const Shape& q,
                       std::vector<int64_t>* offsets, AttentionInputs* inputs, Error* error) {
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
