// SPDX-License-Identifier: Apache-2.0
#include "ort/conv_node.h"

#include <cmath>
#include <cstdio>

namespace edgefold::ort {
namespace {

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

}  // namespace

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

ConvAttributes ReadConvAttributes(const Node& node, const PackedMatrix& matrix, int* rank) {
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

ConvAttributes PointwiseAttributes(const PackedMatrix& matrix) {
  ConvAttributes a = {};
  for (int d = 0; d < kSpatialDims; ++d) a.kernel[d] = a.strides[d] = a.dilations[d] = 1;
  a.group = 1;
  a.in_channels = matrix.k;
  a.out_channels = matrix.n;
  return a;
}

bool InferConvShape(const Api& api, OrtShapeInferContext* context, size_t scales,
                    SymbolicShape* shape, SizeNames* names) {
  SymbolicShape channels;
  const int rank = shape->shape.rank - 2;
  int64_t kernel[kSpatialDims];
  int64_t strides[kSpatialDims];
  int64_t dilations[kSpatialDims];
  int64_t pads[2 * kSpatialDims];
  // What is malformed is reported when the kernel is created.
  if (!InferredInput(api, context, scales, &channels) || channels.shape.rank != 1) return false;
  if (rank < 1 || rank > kSpatialDims) return false;
  if (!InferredInts(api, context, "kernel_shape", 1, rank, kernel)) return false;
  if (!InferredInts(api, context, "strides", 1, rank, strides)) return false;
  if (!InferredInts(api, context, "dilations", 1, rank, dilations)) return false;
  if (!InferredInts(api, context, "pads", 0, 2 * rank, pads)) return false;
  shape->shape.dims[1] = channels.shape.dims[0];
  shape->names[1] = channels.names[0];
  for (int d = 0; d < rank; ++d) {
    int64_t* size = &shape->shape.dims[2 + d];
    const int64_t change = pads[d] + pads[rank + d] - dilations[d] * (kernel[d] - 1) - 1;
    if (*size >= 0) {
      if (*size + change < 0) return false;
      *size = (*size + change) / strides[d] + 1;
      continue;
    }
    const char* name = shape->names[2 + d];
    // ONNX Runtime warns of an unknown size without a name; equal names must mean equal sizes.
    if (name == nullptr || *name == '\0') return false;
    if (change == -1 && strides[d] == 1) continue;
    const int length =
        std::snprintf(names->text[d], sizeof names->text[d], "(%s%+lld)/%lld+1", name,
                      static_cast<long long>(change), static_cast<long long>(strides[d]));
    if (length >= static_cast<int>(sizeof names->text[d])) return false;
    shape->names[2 + d] = names->text[d];
  }
  return true;
}

const float* ReadBias(const char* op, const Context& context, size_t index, int64_t channels,
                      bool* is_scalar, Error* error) {
  const Tensor bias = context.Input(index, error);
  if (error->failed()) return nullptr;
  const int64_t size = bias.shape.rank == 1 ? bias.shape.dims[0] : 0;
  if (size != channels && size != 1) {
    char text[100];
    error->Set("%s: bias has shape %s; expected [%lld] or [1]", op,
               ShapeText(bias.shape, text, sizeof text), static_cast<long long>(channels));
  }
  *is_scalar = size == 1;
  return bias.As<float>();
}

float ReadScale(const char* op, const Context& context, size_t index, const char* role,
                Error* error) {
  const Tensor tensor = context.Input(index, error);
  if (error->failed()) return 1.0f;
  const float scale = tensor.shape.Elements() == 1 ? *tensor.As<float>() : -1.0f;
  if (!(scale > 0.0f) || std::isinf(scale)) {
    error->Set("%s: %s must hold one positive number", op, role);
    return 1.0f;
  }
  return scale;
}

}  // namespace edgefold::ort
