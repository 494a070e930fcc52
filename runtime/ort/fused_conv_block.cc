// SPDX-License-Identifier: Apache-2.0
// FusedConvBlock(x, codes, selectors, table, scales, bias, x_scale, x_shifts, residual,
// residual_scale, y_scale) -> y, for float32, uint8 and int8 y
#include <utility>

#include "ops/conv_block.h"
#include "ops/four_bit_codes.h"
#include "ort/conv_stage_node.h"

namespace edgefold::ort {
namespace {

enum Input {
  kX,
  kCodes,
  kSelectors,
  kTable,
  kScales,
  kBias,
  kXScale,
  kXShifts,
  kResidual,
  kResidualScale,
  kYScale
};

template <int kYType>
class FusedConvBlock {
 public:
  static constexpr const char* kName = "FusedConvBlock";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8,   kInt8,  kFloat, kFloat,
                                        kFloat,   kUint8, kAnyType, kFloat, kFloat};
  static constexpr int kOutputType = kYType;

  FusedConvBlock(Weights weights, const ConvStage& stage, int residual_type)
      : weights_(std::move(weights)), block_(stage), residual_type_(residual_type) {}

  static FusedConvBlock* Create(const Node& node) {
    Weights weights = node.ReadWeights(kCodes);
    Error* error = node.error();
    if (error->failed()) return nullptr;
    ConvStage stage = {};
    int rank = 0;
    stage.matrix = weights.matrix;
    stage.scales = weights.scales;
    stage.attributes = ReadConvAttributes(node, weights.matrix, &rank);
    stage.x = node.Activations(kXShifts, stage.attributes.in_channels);
    stage.activation = node.Function();
    stage.residual = static_cast<Residual>(node.Int("residual_at", 0, 2));
    const int residual_type = static_cast<int>(node.Int("residual_dtype", kUint8, kInt8));
    stage.residual_is_unsigned = residual_type == kUint8;
    stage.y = ReadCodeRange(node.Layer("y_"));
    const CodeRange x_range = {stage.x.low, stage.x.x_codes ? stage.x.high : 0};
    stage.packed.x = ReadPacked(node, "x_packed", x_range, stage.attributes.in_channels);
    const bool adds = stage.residual != Residual::kNone;
    const CodeRange residual_range = {0, adds ? kFourBitUnsignedHigh : 0};
    stage.packed.residual =
        ReadPacked(node, "residual_packed", residual_range, stage.attributes.out_channels);
    stage.packed.y = ReadPacked(node, "y_packed", stage.y, stage.attributes.out_channels);
    stage.x_last = ReadOrder(node, "x_perm", stage.x.x_codes);
    stage.y_last = ReadOrder(node, "y_perm", !stage.y.is_float());
    if (stage.x_last && !stage.x.x_codes && !stage.x.steps.empty()) {
      error->Set("%s: x_shifts must be 0 where a float x lies channel-last", kName);
    }
    if (!error->failed() &&
        (rank != 2 || stage.x.is_float() || weights.matrix.k > kMaxIntegerDepth)) {
      error->Set(
          "%s: expected two spatial dimensions, a positive activation_high and k at most %lld",
          kName, static_cast<long long>(kMaxIntegerDepth));
    }
    if (error->failed()) return nullptr;
    return new FusedConvBlock(std::move(weights), stage, residual_type);
  }

  void Compute(const Context& context, Error* error) const {
    const ConvStage& stage = block_.stage();
    const int64_t channels = stage.attributes.out_channels;
    const Tensor x = context.Input(kX, error);
    ExpectElements(kName, x, stage.x, error);
    ConvBlockInputs inputs = {};
    inputs.stage.bias =
        ReadBias(kName, context, kBias, channels, &inputs.stage.bias_is_scalar, error);
    inputs.x_scale = ReadScale(kName, context, kXScale, "x_scale", error);
    inputs.stage.y_scale = ReadCodeScale(kName, context, kYScale, "y_scale", error);
    if (error->failed()) return;
    if (!ReadImageShape(stage.attributes, Unpacked(x.shape, stage.packed.x), stage.x_last,
                        &inputs.batch, &inputs.shape)) {
      char text[100];
      return error->Set(
          "%s: x has shape %s; expected an image of %lld channels that the kernel fits", kName,
          ShapeText(x.shape, text, sizeof text),
          static_cast<long long>(stage.attributes.in_channels));
    }
    inputs.x = x.data;
    ReadResidual(context, &inputs, error);
    const Shape y = ImageShape(inputs.batch, channels, inputs.shape, stage.y_last);
    inputs.y = context.Output(Stored(y, stage.packed.y), error);
    if (error->failed()) return;
    if (!block_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    const int64_t type = InferredInt(api, context, "y_dtype");
    if (type == kFloat || type == kUint8 || type == kInt8) {
      InferImage(api, context, kScales, static_cast<int>(type), error);
    }
  }

 private:
  void ReadResidual(const Context& context, ConvBlockInputs* inputs, Error* error) const {
    const ConvStage& stage = block_.stage();
    inputs->residual_scale = 1.0f;
    if (stage.residual == Residual::kNone) return;
    const Tensor residual = context.Input(kResidual, error);
    inputs->residual_scale = ReadScale(kName, context, kResidualScale, "residual_scale", error);
    if (error->failed()) return;
    const Shape image =
        ImageShape(inputs->batch, stage.attributes.out_channels, inputs->shape, true);
    const Shape wanted = Stored(image, stage.packed.residual);
    inputs->residual = residual.data;
    if (residual.type == residual_type_ && residual.shape.Is(wanted.rank, wanted.dims)) return;
    char is[100];
    char expected[100];
    error->Set("%s: residual has element type %d and shape %s; expected %d and %s", kName,
               residual.type, ShapeText(residual.shape, is, sizeof is), residual_type_,
               ShapeText(wanted, expected, sizeof expected));
  }

  Weights weights_;
  ConvBlock block_;
  int residual_type_;
};

}  // namespace

const CustomOp* FusedConvBlockToFloat(int weight_bits) {
  return Operator<FusedConvBlock<kFloat>>::AtWidth(weight_bits);
}

const CustomOp* FusedConvBlockToUint8(int weight_bits) {
  return Operator<FusedConvBlock<kUint8>>::AtWidth(weight_bits);
}

const CustomOp* FusedConvBlockToInt8(int weight_bits) {
  return Operator<FusedConvBlock<kInt8>>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
