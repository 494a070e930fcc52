// SPDX-License-Identifier: Apache-2.0
// ShiftConv(x, codes, selectors, table, scales, bias, x_scale, x_shifts) -> y
#include <cmath>
#include <cstdio>
#include <utility>

#include "ops/conv.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

// 255 * 127 * K must fit int32.
constexpr int64_t kMaxIntegerDepth = 65536;

// Puts the node's lists, one number a spatial dimension, behind the missing leading dimensions.
class AttributeLists {
 public:
  explicit AttributeLists(const Node& node) : node_(node) {
    rank_ = node.Ints("kernel_shape", values_, kSpatialDims);
    if (rank_ == 0) node.error()->Set("%s: kernel_shape must have 1 to 3 numbers", node.op());
  }

  int rank() const { return rank_; }

  void Read(const char* name, int64_t low, int64_t missing, int64_t* out) {
    Read(name, low, missing, out, nullptr);
  }

  // Beginnings and, where `ends` is given, as many ends.
  void Read(const char* name, int64_t low, int64_t missing, int64_t* begins, int64_t* ends) {
    const int wanted = ends == nullptr ? rank_ : 2 * rank_;
    const int size = node_.Ints(name, values_, 2 * kSpatialDims);
    if (node_.error()->failed()) return;
    if (size != wanted) {
      node_.error()->Set("%s: attribute '%s' has %d numbers; expected %d", node_.op(), name, size,
                         wanted);
      return;
    }
    for (int d = 0; d < kSpatialDims; ++d) {
      const int at = d - (kSpatialDims - rank_);
      begins[d] = at < 0 ? missing : Checked(name, values_[at], low);
      if (ends != nullptr) ends[d] = at < 0 ? missing : Checked(name, values_[rank_ + at], low);
    }
  }

 private:
  int64_t Checked(const char* name, int64_t value, int64_t low) const {
    if (value >= low && value <= kMaxConvAttribute) return value;
    node_.error()->Set("%s: attribute '%s' holds %lld; expected %lld to %lld", node_.op(), name,
                       static_cast<long long>(value), static_cast<long long>(low),
                       static_cast<long long>(kMaxConvAttribute));
    return low;
  }

  const Node& node_;
  int rank_;
  int64_t values_[2 * kSpatialDims];
};

ConvAttributes ReadAttributes(const Node& node, const PackedMatrix& matrix, int* rank) {
  ConvAttributes a = {};
  Error* error = node.error();
  AttributeLists lists(node);
  *rank = lists.rank();
  lists.Read("kernel_shape", 1, 1, a.kernel);
  lists.Read("strides", 1, 1, a.strides);
  lists.Read("dilations", 1, 1, a.dilations);
  lists.Read("pads", 0, 0, a.pads_begin, a.pads_end);
  a.group = node.Int("group", 1, matrix.n);
  a.out_channels = matrix.n;
  if (error->failed()) return a;
  if (matrix.n % a.group != 0) {
    error->Set("%s: %lld output channels do not form %lld groups", node.op(),
               static_cast<long long>(matrix.n), static_cast<long long>(a.group));
  }
  if (matrix.k % a.Taps() != 0) {
    error->Set("%s: k is %lld, no multiple of the %lld kernel positions", node.op(),
               static_cast<long long>(matrix.k), static_cast<long long>(a.Taps()));
  }
  a.in_channels = matrix.k / a.Taps() * a.group;
  return a;
}

// A list attribute of `count` numbers from `low` to kMaxConvAttribute; false where it is not that.
bool InferredInts(const Api& api, OrtShapeInferContext* context, const char* name, int64_t low,
                  int count, int64_t* out) {
  constexpr int kInts = 2;  // OrtOpAttrType
  const OrtOpAttr* attribute = nullptr;
  int64_t values[16];
  size_t written = 0;
  Error error;
  error.Take(api, api.ShapeInferContext_GetAttribute(context, name, &attribute),
             "show an attribute");
  if (error.failed() || attribute == nullptr) return false;
  error.Take(api, api.ReadOpAttr(attribute, kInts, values, sizeof values, &written),
             "read an attribute");
  if (error.failed() || written != count * sizeof *values) return false;
  for (int i = 0; i < count; ++i) {
    if (values[i] < low || values[i] > kMaxConvAttribute) return false;
    out[i] = values[i];
  }
  return true;
}

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
    const ConvAttributes attributes = ReadAttributes(node, matrix, &rank);
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
    const Tensor bias = context.Input(kBias, error);
    const Tensor x_scale = context.Input(kXScale, error);
    ExpectElements(kName, x, conv_.range(), error);
    if (error->failed()) return;
    ConvInputs inputs = {};
    inputs.x = x.data;
    inputs.bias = bias.As<float>();
    inputs.bias_is_scalar = CheckBias(bias, error);
    if (!conv_.is_float()) inputs.x_scale = CheckScale(x_scale, error);
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
    SymbolicShape x;
    SymbolicShape scales;
    if (!InferredInput(api, context, kX, &x) || !InferredInput(api, context, kScales, &scales)) {
      return;
    }
    const int rank = x.shape.rank - 2;
    int64_t kernel[kSpatialDims];
    int64_t strides[kSpatialDims];
    int64_t dilations[kSpatialDims];
    int64_t pads[2 * kSpatialDims];
    // What is malformed is reported when the kernel is created.
    if (rank < 1 || rank > kSpatialDims || scales.shape.rank != 1) return;
    if (!InferredInts(api, context, "kernel_shape", 1, rank, kernel)) return;
    if (!InferredInts(api, context, "strides", 1, rank, strides)) return;
    if (!InferredInts(api, context, "dilations", 1, rank, dilations)) return;
    if (!InferredInts(api, context, "pads", 0, 2 * rank, pads)) return;
    x.shape.dims[1] = scales.shape.dims[0];
    x.names[1] = scales.names[0];
    char names[kSpatialDims][160];
    for (int d = 0; d < rank; ++d) {
      int64_t* size = &x.shape.dims[2 + d];
      const int64_t change = pads[d] + pads[rank + d] - dilations[d] * (kernel[d] - 1) - 1;
      if (*size >= 0) {
        if (*size + change < 0) return;
        *size = (*size + change) / strides[d] + 1;
        continue;
      }
      const char* name = x.names[2 + d];
      // ONNX Runtime warns of an unknown size without a name; equal names must mean equal sizes.
      if (name == nullptr || *name == '\0') return;
      if (change == -1 && strides[d] == 1) continue;
      const int length =
          std::snprintf(names[d], sizeof names[d], "(%s%+lld)/%lld+1", name,
                        static_cast<long long>(change), static_cast<long long>(strides[d]));
      if (length >= static_cast<int>(sizeof names[d])) return;
      x.names[2 + d] = names[d];
    }
    InferredOutput(api, context, kFloat, x, error);
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

  bool CheckBias(const Tensor& bias, Error* error) const {
    const int64_t n = conv_.attributes().out_channels;
    const bool right = bias.shape.rank == 1 && (bias.shape.dims[0] == n || bias.shape.dims[0] == 1);
    if (!right) {
      char text[100];
      error->Set("%s: bias has shape %s; expected [%lld] or [1]", kName,
                 ShapeText(bias.shape, text, sizeof text), static_cast<long long>(n));
    }
    return right && bias.shape.dims[0] == 1;
  }

  float CheckScale(const Tensor& x_scale, Error* error) const {
    const float scale = x_scale.shape.Elements() == 1 ? *x_scale.As<float>() : -1.0f;
    if (!(scale > 0.0f) || std::isinf(scale)) {
      error->Set("%s: x_scale must hold one positive number", kName);
      return 1.0f;
    }
    return scale;
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
