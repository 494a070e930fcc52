// SPDX-License-Identifier: Apache-2.0
// CodeMean(x, x_scale) -> y, and CodeGate(x, gate, x_scale, y_scale) -> y for uint8 and int8 y
#include "ops/channel_gate.h"
#include "ort/conv_stage_node.h"

namespace edgefold::ort {
namespace {

constexpr int kRank = 4;

// uint8 or int8 codes [batch, height, width, channels].
CodePixels ReadPixels(const char* op, const Tensor& x, Error* error) {
  const int64_t* dims = x.shape.dims;
  const bool is_codes = x.type == kUint8 || x.type == kInt8;
  if (!error->failed() && (!is_codes || x.shape.rank != kRank)) {
    char text[100];
    error->Set("%s: x has element type %d and shape %s; expected uint8 or int8, 4 dimensions", op,
               x.type, ShapeText(x.shape, text, sizeof text));
  }
  if (error->failed()) return {};
  return {x.data, x.type == kUint8, dims[0], dims[1] * dims[2], dims[3], 1.0f};
}

class CodeMean {
 public:
  static constexpr const char* kName = "CodeMean";
  static constexpr int kInputTypes[] = {kAnyType, kFloat};
  enum Input { kX, kXScale };

  static CodeMean* Create(const Node&) { return new CodeMean; }

  void Compute(const Context& context, Error* error) const {
    CodePixels x = ReadPixels(kName, context.Input(kX, error), error);
    x.scale = ReadScale(kName, context, kXScale, "x_scale", error);
    if (!error->failed() && (x.pixels < 1 || x.pixels > kMaxMeanPixels)) {
      error->Set("%s: x has %lld pixels; expected 1 to %lld", kName,
                 static_cast<long long>(x.pixels), static_cast<long long>(kMaxMeanPixels));
    }
    if (error->failed()) return;
    void* y = context.Output({{x.batch, x.channels, 1, 1}, kRank}, error);
    if (!error->failed()) ChannelMeans(x, static_cast<float*>(y), context.Threads());
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    if (!InferredInput(api, context, kX, &x) || x.shape.rank != kRank) return;
    const SymbolicShape y = {{{x.shape.dims[0], x.shape.dims[3], 1, 1}, kRank},
                             {x.names[0], x.names[3], "", ""}};
    InferredOutput(api, context, kFloat, y, error);
  }
};

template <int kYType>
class CodeGate {
 public:
  static constexpr const char* kName = "CodeGate";
  static constexpr int kInputTypes[] = {kAnyType, kFloat, kFloat, kFloat};
  static constexpr int kOutputType = kYType;
  enum Input { kX, kGate, kXScale, kYScale };

  explicit CodeGate(const CodeRange& range) : range_(range) {}

  static CodeGate* Create(const Node& node) {
    const CodeRange range = ReadCodeRange(node.Layer("y_"));
    if (range.is_float()) node.error()->Set("%s: attribute 'y_high' must be positive", kName);
    return node.error()->failed() ? nullptr : new CodeGate(range);
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor image = context.Input(kX, error);
    const Tensor gate = context.Input(kGate, error);
    CodePixels x = ReadPixels(kName, image, error);
    x.scale = ReadScale(kName, context, kXScale, "x_scale", error);
    const float y_scale = ReadCodeScale(kName, context, kYScale, "y_scale", error);
    if (error->failed()) return;
    const int64_t wanted[kRank] = {x.batch, x.channels, 1, 1};
    if (!gate.shape.Is(kRank, wanted)) {
      char text[100];
      return error->Set("%s: gate has shape %s; expected [%lld, %lld, 1, 1]", kName,
                        ShapeText(gate.shape, text, sizeof text), static_cast<long long>(x.batch),
                        static_cast<long long>(x.channels));
    }
    void* y = context.Output(image.shape, error);
    if (error->failed() || image.shape.Elements() == 0) return;
    if (!GateChannels(x, gate.As<float>(), range_, y_scale, y, context.Threads())) {
      error->Set("%s: out of memory", kName);
    }
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    if (!InferredInput(api, context, kX, &x) || x.shape.rank != kRank) {
      x = {{{-1, -1, -1, -1}, kRank}, {"", "", "", ""}};
    }
    MadeNames names;
    NameUnknownSizes(&x, &names);  // the type must be declared whatever is known of the sizes
    const int64_t type = InferredInt(api, context, "y_dtype");
    if (type == kUint8 || type == kInt8) {
      InferredOutput(api, context, static_cast<int>(type), x, error);
    }
  }

 private:
  CodeRange range_;
};

}  // namespace

const CustomOp* CodeMeanOperator() {
  static const CustomOp op = Operator<CodeMean>::Make();
  return &op;
}

const CustomOp* CodeGateToUint8() {
  static const CustomOp op = Operator<CodeGate<kUint8>>::Make();
  return &op;
}

const CustomOp* CodeGateToInt8() {
  static const CustomOp op = Operator<CodeGate<kInt8>>::Make();
  return &op;
}

}  // namespace edgefold::ort
