// SPDX-License-Identifier: Apache-2.0
// FusedInvertedResidual(x, five inputs of each of three convolutions, x_scale, expand_scale,
// depthwise_scale, y_scale) -> y, for float32, uint8 and int8 y
#include <utility>

#include "ops/inverted_residual.h"
#include "ort/conv_stage_node.h"

namespace edgefold::ort {
namespace {

// A convolution's inputs stand from its codes on.
enum Input {
  kX,
  kExpand,
  kDepthwise = kExpand + 5,
  kProject = kDepthwise + 5,
  kXScale = kProject + 5,
  kExpandScale,
  kDepthwiseScale,
  kYScale
};
constexpr int kScalesBehind = 3;
constexpr int kBiasBehind = 4;

template <int kYType>
class FusedInvertedResidual {
 public:
  static constexpr const char* kName = "FusedInvertedResidual";
  static constexpr int kInputTypes[] = {kAnyType, kUint8, kUint8, kInt8,  kFloat, kFloat, kUint8,
                                        kUint8,   kInt8,  kFloat, kFloat, kUint8, kUint8, kInt8,
                                        kFloat,   kFloat, kFloat, kFloat, kFloat, kFloat};
  static constexpr int kOutputType = kYType;

  struct Layers {
    Weights expand;
    Weights depthwise;
    Weights project;
  };

  FusedInvertedResidual(Layers layers, const InvertedResidualStages& stages)
      : layers_(std::move(layers)), block_(stages) {}

  static FusedInvertedResidual* Create(const Node& node) {
    const Node expand = node.Layer("expand_");
    const Node depthwise = node.Layer("depthwise_");
    const Node project = node.Layer("project_");
    Layers layers = {expand.ReadWeights(kExpand), depthwise.ReadWeights(kDepthwise),
                     project.ReadWeights(kProject)};
    Error* error = node.error();
    if (error->failed()) return nullptr;
    InvertedResidualStages s = {};
    int rank = 0;
    s.has_expand = true;
    s.expand = Stage(expand, layers.expand, ReadCodeRange(expand));
    s.depthwise = Stage(depthwise, layers.depthwise, ReadCodeRange(depthwise));
    s.project = Stage(project, layers.project, ReadCodeRange(node.Layer("y_")));
    s.expand.attributes = PointwiseAttributes(layers.expand.matrix);
    s.depthwise.attributes = ReadConvAttributes(node, layers.depthwise.matrix, &rank);
    s.project.attributes = PointwiseAttributes(layers.project.matrix);
    s.expand.x = node.CodeActivations();
    s.depthwise.x = AsActivations(s.expand.y);
    s.project.x = AsActivations(s.depthwise.y);
    const bool adds = node.Int("residual", 0, 1) == 1;
    const int x_type = s.expand.x.is_unsigned() ? kUint8 : kInt8;
    node.Int("x_dtype", x_type, x_type);
    if (adds) s.project.residual = Residual::kBeforeActivation;
    s.project.residual_is_unsigned = s.expand.x.is_unsigned();
    const CodeRange x_range = {s.expand.x.low, s.expand.x.x_codes ? s.expand.x.high : 0};
    s.expand.packed.x = ReadPacked(node, "x_packed", x_range, s.expand.matrix.k);
    s.project.packed.residual = adds && s.expand.packed.x;
    s.project.packed.y = ReadPacked(node, "y_packed", s.project.y, s.project.matrix.n);
    s.expand.x_last = ReadOrder(node, "x_perm", s.expand.x.x_codes);
    s.project.y_last = ReadOrder(node, "y_perm", !s.project.y.is_float());
    if (!error->failed()) CheckFit(s, rank, error);
    if (error->failed()) return nullptr;
    return new FusedInvertedResidual(std::move(layers), s);
  }

  void Compute(const Context& context, Error* error) const {
    const InvertedResidualStages& s = block_.stages();
    const Tensor x = context.Input(kX, error);
    ExpectElements(kName, x, s.expand.x, error);
    InvertedResidualInputs inputs = {};
    inputs.x_scale = ReadScale(kName, context, kXScale, "x_scale", error);
    inputs.expand = Inputs(context, kExpand, s.expand, kExpandScale, "expand_scale", error);
    inputs.depthwise =
        Inputs(context, kDepthwise, s.depthwise, kDepthwiseScale, "depthwise_scale", error);
    inputs.project = Inputs(context, kProject, s.project, kYScale, "y_scale", error);
    if (error->failed()) return;
    // The expansion changes no size but the number of channels.
    Shape expanded = Unpacked(x.shape, s.expand.packed.x);
    const int channels = s.expand.x_last ? 3 : 1;
    const bool fits = expanded.rank == 4 && expanded.dims[channels] == s.expand.matrix.k;
    expanded.dims[channels] = s.expand.matrix.n;
    if (!fits || !ReadImageShape(s.depthwise.attributes, expanded, s.expand.x_last, &inputs.batch,
                                 &inputs.shape)) {
      char text[100];
      return error->Set(
          "%s: x has shape %s; expected an image of %lld channels that the kernel fits", kName,
          ShapeText(x.shape, text, sizeof text), static_cast<long long>(s.expand.matrix.k));
    }
    const Shape y = ImageShape(inputs.batch, s.project.matrix.n, inputs.shape, s.project.y_last);
    if (s.project.residual != Residual::kNone && !SameImage(inputs.shape)) {
      return error->Set("%s: x is added to a y of another size", kName);
    }
    inputs.x = x.data;
    inputs.y = context.Output(Stored(y, s.project.packed.y), error);
    if (error->failed()) return;
    if (!block_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    const int64_t type = InferredInt(api, context, "y_dtype");
    if (type == kFloat || type == kUint8 || type == kInt8) {
      InferImage(api, context, kProject + kScalesBehind, static_cast<int>(type), error);
    }
  }

 private:
  static ConvStage Stage(const Node& layer, const Weights& weights, const CodeRange& y) {
    ConvStage stage = {};
    stage.matrix = weights.matrix;
    stage.scales = weights.scales;
    stage.activation = layer.Function();
    stage.y = y;
    return stage;
  }

  static void CheckFit(const InvertedResidualStages& s, int rank, Error* error) {
    const ConvAttributes& depthwise = s.depthwise.attributes;
    const bool channels = depthwise.Depthwise() && s.expand.matrix.n == depthwise.in_channels &&
                          s.project.matrix.k == depthwise.out_channels;
    const bool added =
        s.project.residual == Residual::kNone || s.expand.matrix.k == s.project.matrix.n;
    if (rank != 2 || !channels || !added) {
      error->Set("%s: the three convolutions do not fit one another", kName);
    }
    if (s.expand.y.is_float() || s.depthwise.y.is_float() || s.expand.x.is_float()) {
      error->Set("%s: codes of x, and between the convolutions, need a positive high", kName);
    }
    for (const int64_t k : {s.expand.matrix.k, s.depthwise.matrix.k, s.project.matrix.k}) {
      if (k <= kMaxIntegerDepth) continue;
      error->Set("%s: %lld products a sum overflow int32; at most %lld", kName,
                 static_cast<long long>(k), static_cast<long long>(kMaxIntegerDepth));
    }
  }

  static bool SameImage(const ConvShape& shape) {
    return shape.in[1] == shape.out[1] && shape.in[2] == shape.out[2];
  }

  static StageInputs Inputs(const Context& context, size_t first, const ConvStage& stage,
                            size_t scale, const char* role, Error* error) {
    StageInputs inputs = {};
    inputs.bias = ReadBias(kName, context, first + kBiasBehind, stage.matrix.n,
                           &inputs.bias_is_scalar, error);
    inputs.y_scale = ReadCodeScale(kName, context, scale, role, error);
    return inputs;
  }

  Layers layers_;
  InvertedResidual block_;
};

}  // namespace

const CustomOp* FusedInvertedResidualToFloat(int weight_bits) {
  return Operator<FusedInvertedResidual<kFloat>>::AtWidth(weight_bits);
}

const CustomOp* FusedInvertedResidualToUint8(int weight_bits) {
  return Operator<FusedInvertedResidual<kUint8>>::AtWidth(weight_bits);
}

const CustomOp* FusedInvertedResidualToInt8(int weight_bits) {
  return Operator<FusedInvertedResidual<kInt8>>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
