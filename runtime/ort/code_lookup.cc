// SPDX-License-Identifier: Apache-2.0
// CodeLookup(x, table) -> y, for uint8 and int8 x, and uint8 and int8 table and y
#include <algorithm>

#include "base/rounding.h"
#include "kernels/lookup/lookup.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

constexpr int64_t kEntries = 256;
constexpr int64_t kBytesPerTask = 1 << 16;

template <int kYType>
class CodeLookup {
 public:
  static constexpr const char* kName = "CodeLookup";
  static constexpr int kInputTypes[] = {kAnyType, kYType};
  static constexpr int kOutputType = kYType;
  enum Input { kX, kTable };

  static CodeLookup* Create(const Node& node) {
    node.Int("y_dtype", kYType, kYType);
    return node.error()->failed() ? nullptr : new CodeLookup;
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(kX, error);
    const Tensor table = context.Input(kTable, error);
    if (error->failed()) return;
    if (x.type != kUint8 && x.type != kInt8) {
      return error->Set("%s: x has element type %d; expected uint8 or int8", kName, x.type);
    }
    if (!table.shape.Is(1, &kEntries)) {
      char text[100];
      return error->Set("%s: table has shape %s; expected [256]", kName,
                        ShapeText(table.shape, text, sizeof text));
    }
    uint8_t* y = static_cast<uint8_t*>(context.Output(x.shape, error));
    if (error->failed()) return;
    const int64_t count = x.shape.Elements();
    context.Threads().For(static_cast<size_t>(CeilDiv(count, kBytesPerTask)), [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * kBytesPerTask;
      lookup_(x.As<uint8_t>() + first, std::min(kBytesPerTask, count - first),
              static_cast<const uint8_t*>(table.data), y + first);
    });
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    const int64_t type = InferredInt(api, context, "y_dtype");
    if (!InferredInput(api, context, kX, &x) || (type != kUint8 && type != kInt8)) return;
    MadeNames names;
    NameUnknownSizes(&x, &names);
    InferredOutput(api, context, static_cast<int>(type), x, error);
  }

 private:
  LookupKernel* lookup_ = LookupKernels().Choose().run;
};

}  // namespace

const CustomOp* CodeLookupToUint8() {
  static const CustomOp op = Operator<CodeLookup<kUint8>>::Make();
  return &op;
}

const CustomOp* CodeLookupToInt8() {
  static const CustomOp op = Operator<CodeLookup<kInt8>>::Make();
  return &op;
}

}  // namespace edgefold::ort
