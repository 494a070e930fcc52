// SPDX-License-Identifier: Apache-2.0
#include "ops/key_value_operands.h"

#include <algorithm>
#include <initializer_list>

#include "ops/code_panels.h"

namespace edgefold {
namespace {

// Up to so many queries of a head read rows: more repay the making of panels.
constexpr int64_t kFewQueries = 8;
constexpr int64_t kRowsAtOnce = 64;  // that are quantized

int64_t PanelBytes(int64_t columns, int64_t depth) {
  return CeilDiv(columns, kPanelColumns) * CeilDiv(depth, kUnitDepth) * kUnitCodes;
}

}  // namespace

KeyValueKernels::KeyValueKernels()
    : quantize(QuantizeKernels().Choose().run),
      quantize_panels(QuantizePanelsKernels().Choose().run),
      gemm(GemmKernels().Choose().run),
      row_dots(RowDotsKernels().Choose().run),
      row_sums(RowSumsKernels().Choose().run) {}

KeyValueOperands::KeyValueOperands(const KeyValueKernels& kernels, const KeysAndValues& kv,
                                   const Shape& shape, int64_t queries)
    : kernels_(kernels), shape_(shape), by_rows_(queries <= kFewQueries) {
  const HeadRows keys = {shape.keys, shape.depth, kv.side_by_side};
  const HeadRows values = {shape.keys, shape.values, kv.side_by_side};
  keys_ = {kv.k, keys, kv.k_codes, nullptr, shape.depth, 0, nullptr, true};
  values_ = {kv.v, values, kv.v_codes, nullptr, shape.values, 0, nullptr, false};
  for (Operand* operand : {&keys_, &values_}) {
    const bool given = by_rows_ && operand->codes != nullptr;
    const int64_t columns = operand->columns;
    operand->bytes = given                 ? 0
                     : by_rows_            ? shape.keys * RoundUp(columns, kGroupDepth)
                     : operand->transposed ? PanelBytes(shape.keys, columns)
                                           : PanelBytes(columns, shape.keys);
  }
  const int64_t scales = shape.heads * shape.keys;
  const int64_t made = RoundUp(shape.heads * (keys_.bytes + values_.bytes), 4);
  memory_ = AllocateScratch(made + 2 * scales * 4);
  if (memory_ == nullptr) return;
  keys_.made = reinterpret_cast<int8_t*>(memory_.get());
  values_.made = keys_.made + shape.heads * keys_.bytes;
  k_scales_ = keys_.scales = reinterpret_cast<float*>(memory_.get() + made);
  values_.scales = k_scales_ + scales;
  given_k_scales_ = kv.k_scales;
  v_scales_ = kv.v != nullptr ? values_.scales : kv.v_scales;
}

void KeyValueOperands::Prepare(int64_t head, float scale) const {
  Make(keys_, head);
  Make(values_, head);
  float* scales = k_scales_ + head * shape_.keys;
  const float* from = keys_.floats != nullptr ? scales : given_k_scales_ + head * shape_.keys;
  for (int64_t n = 0; n < shape_.keys; ++n) scales[n] = from[n] * scale;
}

void KeyValueOperands::Make(const Operand& operand, int64_t head) const {
  if (operand.bytes == 0) return;
  int8_t* made = operand.made + head * operand.bytes;
  if (operand.codes != nullptr) {
    return PackCodes(Rows(operand, head), shape_.keys, operand.columns, operand.transposed, made);
  }
  const float* floats = operand.floats + operand.floats_at.Offset(head);
  const int64_t stride = operand.floats_at.Stride();
  float* scales = operand.scales + head * shape_.keys;
  if (!by_rows_) {
    return kernels_.quantize_panels(
        {floats, stride, shape_.keys, operand.columns, operand.transposed, made, scales});
  }
  QuantizeArguments q = {};
  q.x_stride = stride;
  q.columns = operand.columns;
  q.low = -127;
  q.high = 127;
  q.stride = RoundUp(operand.columns, kGroupDepth);
  int32_t sums[kRowsAtOnce];  // which nothing reads
  q.sums = sums;
  for (int64_t n = 0; n < shape_.keys; n += kRowsAtOnce) {
    q.x = floats + n * stride;
    q.rows = std::min(kRowsAtOnce, shape_.keys - n);
    q.codes = reinterpret_cast<uint8_t*>(made + n * q.stride);
    q.row_scales = scales + n;
    kernels_.quantize(q);
  }
}

const int8_t* KeyValueOperands::Rows(const Operand& operand, int64_t head) const {
  if (operand.codes != nullptr) return operand.codes + head * shape_.keys * operand.columns;
  return operand.made + head * operand.bytes;
}

int64_t KeyValueOperands::Stride(const Operand& operand) const {
  return operand.codes != nullptr ? operand.columns : RoundUp(operand.columns, kGroupDepth);
}

void KeyValueOperands::DotKeys(int64_t head, const Activations& q, int64_t keys, int32_t* acc,
                               int64_t acc_stride) const {
  if (by_rows_) {
    return kernels_.row_dots({reinterpret_cast<const int8_t*>(q.codes), q.stride, q.rows,
                              Rows(keys_, head), Stride(keys_), keys, shape_.depth, acc,
                              acc_stride});
  }
  kernels_.gemm(q, keys_.made + head * keys_.bytes, CeilDiv(keys, kPanelColumns),
                CeilDiv(shape_.depth, kUnitDepth), acc, acc_stride);
}

void KeyValueOperands::SumValues(int64_t head, const Activations& weights, int64_t keys,
                                 int32_t* acc, int64_t acc_stride) const {
  if (by_rows_) {
    return kernels_.row_sums({weights.codes, weights.stride, weights.rows, Rows(values_, head),
                              Stride(values_), keys, shape_.values, acc, acc_stride});
  }
  const int64_t pitch = CeilDiv(shape_.keys, kUnitDepth) * kUnitCodes;
  const int8_t* panels = values_.made + head * values_.bytes;
  for (int64_t n = 0; n < shape_.values; n += kPanelColumns) {
    kernels_.gemm(weights, panels + n / kPanelColumns * pitch, 1, CeilDiv(keys, kUnitDepth),
                  acc + n, acc_stride);
  }
}

}  // namespace edgefold
