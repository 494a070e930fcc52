// SPDX-License-Identifier: Apache-2.0
// ShiftConv(x, codes, selectors, table, scales, bias, x_scale, x_shifts) -> y
#include <utility>

#include "ops/conv.h"
#include "ort/conv_node.h"

namespace edgefold::ort {
namespace {

class ShiftConv {
 public:
  static constexpr const char* kName = "ShiftConv";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8,
                                        kFloat,   kFloat, kFloat, kUint8};
  enum Input { kX, kCodes, kSelectors, kTable, kScales, kBias, kXScale, kXShifts };

  ShiftConv(Weights weights, const ConvAttributes& attributes, const ActivationRange& range,
            int rank)
      : weights_(std::move(weights)),
        conv_(weights_.matrix, weights_.scales, attributes, range),
        rank_(rank) {}

  static ShiftConv* Create(const Node& node) {
    Weights weights = node.ReadWeights(kCodes);
    const PackedMatrix& matrix = weights.matrix;
    Error* error = node.error();
    if (error->failed()) return nullptr;
    int rank = 0;
    const ConvAttributes attributes = ReadConvAttributes(node, matrix, &rank);
    const ActivationRange range = node.Activations(kXShifts, attributes.in_channels);
    if (!range.is_float() && matrix.k > kMaxIntegerDepth) {
      error->Set("%s: k is %lld; quantized activations allow at most %lld", kName,
                 static_cast<long long>(matrix.k), static_cast<long long>(kMaxIntegerDepth));
    }
    if (error->failed()) return nullptr;
    return new ShiftConv(std::move(weights), attributes, range, rank);
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(kX, error);
    ExpectElements(kName, x, conv_.range(), error);
    if (error->failed()) return;
    ConvInputs inputs = {};
    inputs.x = x.data;
    inputs.bias = ReadBias(kName, context, kBias, conv_.attributes().out_channels,
                           &inputs.bias_is_scalar, error);
    if (!conv_.is_float()) inputs.x_scale = ReadScale(kName, context, kXScale, "x_scale", error);
    Shape shape = x.shape;
    CheckShape(shape, &inputs, error);
    if (error->failed()) return;
    shape.dims[1] = conv_.attributes().out_channels;
    for (int d = 0; d < rank_; ++d) {
      shape.dims[2 + d] = inputs.shape.out[kSpatialDims - rank_ + d];
    }
    inputs.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!conv_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape shape;
    SizeNames names;
    if (!InferredInput(api, context, kX, &shape)) return;
    if (!InferConvShape(api, context, kScales, &shape, &names)) return;
    InferredOutput(api, context, kFloat, shape, error);
  }

 private:
  void CheckShape(const Shape& shape, ConvInputs* inputs, Error* error) const {
    const int64_t channels = conv_.attributes().in_channels;
    int64_t spatial[kSpatialDims] = {1, 1, 1};
    bool right = shape.rank == rank_ + 2 && shape.dims[1] == channels;
    for (int d = 0; right && d < rank_; ++d) {
      spatial[kSpatialDims - rank_ + d] = shape.dims[2 + d];
    }
    right = right && MakeConvShape(conv_.attributes(), spatial, &inputs->shape);
    if (!right) {
      char text[100];
      error->Set(
          "%s: x has shape %s; expected [batch, %lld] and %d dimensions that the kernel fits",
          kName, ShapeText(shape, text, sizeof text), static_cast<long long>(channels), rank_);
    }
    inputs->batch = right ? shape.dims[0] : 0;
  }

  Weights weights_;
  Conv conv_;
  int rank_;
};

}  // namespace

const CustomOp* ShiftConvOperator(int weight_bits) {
  return Operator<ShiftConv>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
