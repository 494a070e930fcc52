// SPDX-License-Identifier: Apache-2.0
// QuantizeRows(x) -> codes, scales
#include <algorithm>
#include <atomic>

#include "base/rounding.h"
#include "ops/operand_rows.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

class QuantizeRows {
 public:
  static constexpr const char* kName = "QuantizeRows";
  static constexpr int kInputTypes[] = {kFloat};
  static constexpr int kOutputTypes[] = {kInt8, kFloat};
  enum Output { kCodes, kScales };

  static QuantizeRows* Create(const Node&) { return new QuantizeRows; }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(0, error);
    if (error->failed()) return;
    if (x.shape.rank < 1 || x.shape.dims[x.shape.rank - 1] < 1) {
      char text[100];
      error->Set("%s: x has shape %s; expected rows of at least one element", kName,
                 ShapeText(x.shape, text, sizeof text));
      return;
    }
    Shape shape = x.shape;
    int8_t* codes = static_cast<int8_t*>(context.Output(shape, error, kCodes));
    const int64_t columns = shape.dims[shape.rank - 1];
    shape.dims[shape.rank - 1] = 1;
    float* scales = static_cast<float*>(context.Output(shape, error, kScales));
    if (error->failed()) return;
    const int64_t rows = shape.Elements();
    const int64_t step = std::max<int64_t>(kElementsPerTask / columns, 1);
    std::atomic<bool> enough_memory{true};
    context.Threads().For(CeilDiv(rows, step), [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      const int64_t count = std::min(step, rows - first);
      if (!Quantize(x.As<float>() + first * columns, count, columns, codes + first * columns,
                    scales + first)) {
        enough_memory = false;
      }
    });
    if (!enough_memory) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    if (!InferredInput(api, context, 0, &x)) return;
    InferredOutput(api, context, kInt8, x, error, kCodes);
    x.shape.dims[x.shape.rank - 1] = 1;
    InferredOutput(api, context, kFloat, x, error, kScales);
  }

 private:
  // Through rows of whole groups, which the kernel writes. False where there is no memory.
  bool Quantize(const float* x, int64_t rows, int64_t columns, int8_t* codes, float* scales) const {
    const OperandRows operand(rows, columns, false);
    if (!operand.ok()) return false;
    QuantizeArguments q = {};
    q.x = x;
    q.x_stride = columns;
    q.rows = rows;
    q.columns = columns;
    q.low = -127;
    q.high = 127;
    operand.Receive(0, &q);
    q.row_scales = scales;
    q.pair_sums = nullptr;
    quantize_(q);
    for (int64_t m = 0; m < rows; ++m) {
      std::memcpy(codes + m * columns, operand.Codes(m), static_cast<size_t>(columns));
    }
    return true;
  }

  QuantizeKernel* quantize_ = QuantizeKernels().Choose().run;
};

}  // namespace

const CustomOp* QuantizeRowsOperator() {
  static const CustomOp op = Operator<QuantizeRows>::Make();
  return &op;
}

}  // namespace edgefold::ort
