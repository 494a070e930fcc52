// SPDX-License-Identifier: Apache-2.0
#include "ort/conv_stage_node.h"

#include <algorithm>

#include "ops/four_bit_codes.h"

namespace edgefold::ort {
namespace {

constexpr int kImageRank = 4;

// Where batch, channels, height and width stand.
constexpr int kChannelFirst[kImageRank] = {0, 1, 2, 3};
constexpr int kChannelLast[kImageRank] = {0, 3, 1, 2};
constexpr int kBackToLast[kImageRank] = {0, 2, 3, 1};  // from channel-first

const int* Axes(bool is_last) { return is_last ? kChannelLast : kChannelFirst; }

// What is malformed is refused when the kernel is created.
bool InferredLast(const Api& api, OrtShapeInferContext* context, const char* name) {
  int64_t order[kImageRank];
  return InferredInts(api, context, name, 0, kImageRank, order) && order[1] != kChannelFirst[1];
}

}  // namespace

CodeRange ReadCodeRange(const Node& layer) {
  CodeRange range = {};
  range.low = static_cast<int32_t>(layer.Int("low", -127, 0));
  range.high = static_cast<int32_t>(layer.Int("high", 0, range.low < 0 ? 127 : 255));
  const int type = range.is_float() ? kFloat : range.is_unsigned() ? kUint8 : kInt8;
  layer.Int("dtype", type, type);
  return range;
}

bool ReadPacked(const Node& node, const char* name, const CodeRange& range, int64_t channels) {
  if (node.IntOr(name, 0, 0, 1) == 0) return false;
  const int high = range.is_unsigned() ? kFourBitUnsignedHigh : kFourBitHigh;
  if (range.is_float() || range.low < kFourBitLow || range.high > high || channels % 2 != 0) {
    node.error()->Set(
        "%s: attribute '%s' is 1 for codes of %d to %d and %lld channels; two codes a byte are of "
        "4 "
        "bits and of an even number of channels",
        node.op(), name, range.low, range.high, static_cast<long long>(channels));
  }
  return true;
}

ActivationRange AsActivations(const CodeRange& codes) {
  ActivationRange range = {};
  range.low = codes.low;
  range.high = codes.high;
  range.x_codes = true;
  return range;
}

bool ReadOrder(const Node& node, const char* name, bool is_codes) {
  int64_t order[kImageRank] = {};
  const int size = node.Ints(name, order, kImageRank);
  const int* last = name[0] == 'x' ? kChannelLast : kBackToLast;
  const bool complete = size == kImageRank;
  if (complete && std::equal(order, order + kImageRank, last)) return true;
  if (complete && std::equal(order, order + kImageRank, kChannelFirst) && !is_codes) return false;
  node.error()->Set("%s: attribute '%s' must be [%d, %d, %d, %d]%s", node.op(), name, last[0],
                    last[1], last[2], last[3], is_codes ? " here" : " or [0, 1, 2, 3]");
  return false;
}

float ReadCodeScale(const char* op, const Context& context, size_t index, const char* role,
                    Error* error) {
  const float scale = ReadScale(op, context, index, role, error);
  if (!error->failed() && (scale < 0x1p-64f || scale > 0x1p64f)) {
    error->Set("%s: %s is %g; expected 2^-64 to 2^64", op, role, scale);
  }
  return scale;
}

bool ReadImageShape(const ConvAttributes& attributes, const Shape& x, bool is_last, int64_t* batch,
                    ConvShape* shape) {
  const int* axes = Axes(is_last);
  if (x.rank != kImageRank || x.dims[axes[1]] != attributes.in_channels) return false;
  const int64_t spatial[kSpatialDims] = {1, x.dims[axes[2]], x.dims[axes[3]]};
  *batch = x.dims[axes[0]];
  return MakeConvShape(attributes, spatial, shape);
}

Shape ImageShape(int64_t batch, int64_t channels, const ConvShape& shape, bool is_last) {
  const int* axes = Axes(is_last);
  Shape image;
  image.rank = kImageRank;
  image.dims[axes[0]] = batch;
  image.dims[axes[1]] = channels;
  image.dims[axes[2]] = shape.out[1];
  image.dims[axes[3]] = shape.out[2];
  return image;
}

Shape Unpacked(const Shape& stored, bool is_packed) {
  Shape image = stored;
  if (is_packed && image.rank == kImageRank) image.dims[kImageRank - 1] *= 2;
  return image;
}

Shape Stored(const Shape& image, bool is_packed) {
  Shape stored = image;
  if (is_packed) stored.dims[kImageRank - 1] /= 2;
  return stored;
}

void InferImage(const Api& api, OrtShapeInferContext* context, size_t scales, int y_type,
                Error* error) {
  const int* from = Axes(InferredLast(api, context, "x_perm"));
  const int* to = Axes(InferredLast(api, context, "y_perm"));
  SymbolicShape x;
  SymbolicShape image;
  SizeNames names;
  bool known = InferredInput(api, context, 0, &x) && x.shape.rank == kImageRank;
  image.shape.rank = kImageRank;
  for (int d = 0; known && d < kImageRank; ++d) {
    image.shape.dims[d] = x.shape.dims[from[d]];
    image.names[d] = x.names[from[d]];
  }
  known = known && InferConvShape(api, context, scales, &image, &names);
  // The type must be declared whatever is known of the sizes.
  SymbolicShape y;
  y.shape.rank = kImageRank;
  for (int d = 0; d < kImageRank; ++d) {
    y.shape.dims[to[d]] = known ? image.shape.dims[d] : -1;
    y.names[to[d]] = known ? image.names[d] : "";
  }
  int64_t* last = &y.shape.dims[kImageRank - 1];
  if (*last > 0 && InferredInt(api, context, "y_packed") == 1) *last /= 2;
  MadeNames names_made;
  NameUnknownSizes(&y, &names_made);
  InferredOutput(api, context, y_type, y, error);
}

}  // namespace edgefold::ort
