// SPDX-License-Identifier: Apache-2.0
// ShiftGather(ids, codes, selectors, table, scales) -> y: row v of an embedding is column v of W.
#include <algorithm>
#include <utility>

#include "kernels/column/column.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

class ShiftGather {
 public:
  static constexpr const char* kName = "ShiftGather";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8, kFloat};
  enum Input { kIds, kCodes, kSelectors, kTable, kScales };

  explicit ShiftGather(Weights weights) : weights_(std::move(weights)) {}

  static ShiftGather* Create(const Node& node) {
    Weights weights = node.ReadWeights(kCodes);
    return node.error()->failed() ? nullptr : new ShiftGather(std::move(weights));
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor ids = context.Input(kIds, error);
    if (error->failed()) return;
    if (ids.type != kInt32 && ids.type != kInt64) {
      error->Set("%s: ids have element type %d; expected int32 or int64", kName, ids.type);
      return;
    }
    if (ids.shape.rank == kMaxRank) {
      error->Set("%s: ids have rank %d; at most %d", kName, kMaxRank, kMaxRank - 1);
      return;
    }
    const int64_t count = ids.shape.Elements();
    CheckRange(ids, count, error);
    Shape shape = ids.shape;
    shape.dims[shape.rank++] = weights_.matrix.k;
    float* y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    constexpr int64_t kIdsPerTask = 16;
    context.Threads().For((count + kIdsPerTask - 1) / kIdsPerTask, [&](size_t index) {
      const int64_t first = static_cast<int64_t>(index) * kIdsPerTask;
      for (int64_t i = first; i < std::min(first + kIdsPerTask, count); ++i) {
        const int64_t id = Id(ids, i);
        const int64_t column = id < 0 ? id + weights_.matrix.n : id;
        DecodeColumn(weights_.matrix, column, weights_.scales[column], y + i * weights_.matrix.k);
      }
    });
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape ids;
    const int64_t k = InferredInt(api, context, "k");
    if (k < 1 || !InferredInput(api, context, kIds, &ids) || ids.shape.rank == kMaxRank) return;
    ids.names[ids.shape.rank] = "";
    ids.shape.dims[ids.shape.rank++] = k;
    InferredOutput(api, context, kFloat, ids, error);
  }

 private:
  static int64_t Id(const Tensor& ids, int64_t i) {
    return ids.type == kInt64 ? ids.As<int64_t>()[i] : ids.As<int32_t>()[i];
  }

  void CheckRange(const Tensor& ids, int64_t count, Error* error) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = Id(ids, i);
      if (id >= -weights_.matrix.n && id < weights_.matrix.n) continue;
      error->Set("%s: id %lld is outside the table of %lld rows", kName, static_cast<long long>(id),
                 static_cast<long long>(weights_.matrix.n));
      return;
    }
  }

  Weights weights_;
};

}  // namespace

const CustomOp* ShiftGatherOperator(int weight_bits) {
  return Operator<ShiftGather>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
