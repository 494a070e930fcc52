// SPDX-License-Identifier: Apache-2.0
// FusedFeedForward(x, up's seven inputs, down's seven inputs, residual) -> y
#include "ops/feed_forward.h"
#include "ort/linear_layer.h"

namespace edgefold::ort {
namespace {

class FusedFeedForward {
 public:
  static constexpr const char* kName = "FusedFeedForward";
  static constexpr int kInputTypes[] = {kFloat, kUint8, kUint8, kInt8,  kFloat, kFloat,
                                        kFloat, kUint8, kUint8, kUint8, kInt8,  kFloat,
                                        kFloat, kFloat, kUint8, kFloat};
  static constexpr size_t kX = 0;
  static constexpr size_t kUp = 1;
  static constexpr size_t kDown = kUp + LinearLayer::kInputs;
  static constexpr size_t kResidual = kDown + LinearLayer::kInputs;
  static constexpr size_t kDownScales = kDown + 3;

  explicit FusedFeedForward(const Node& node)
      : up_(node.Layer("up_"), kUp),
        down_(node.Layer("down_"), kDown),
        last_(node.Layer("down_").FunctionOrNone()),
        block_(up_.linear(), node.Function(), down_.linear()) {}

  static FusedFeedForward* Create(const Node& node) {
    FusedFeedForward* created = new FusedFeedForward(node);
    const Linear& up = created->up_.linear();
    const Linear& down = created->down_.linear();
    if (up.matrix().n != down.matrix().k) {
      node.error()->Set("%s: down_k is %lld; up gives %lld columns", kName,
                        static_cast<long long>(down.matrix().k),
                        static_cast<long long>(up.matrix().n));
    }
    if (up.range().x_codes || down.range().x_codes) {
      node.error()->Set("%s: attribute 'x_codes' is 1; expected float inputs", kName);
    }
    return created;
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(kX, error);
    const Tensor residual = context.Input(kResidual, error);
    FeedForwardInputs inputs = {up_.Inputs(context, error), down_.Inputs(context, error)};
    const int64_t k = up_.linear().matrix().k;
    ExpectRows(kName, x, k, error);
    if (error->failed()) return;
    Shape shape = x.shape;
    inputs.up.x = x.data;
    inputs.up.rows = shape.Elements() / k;
    shape.dims[shape.rank - 1] = down_.linear().matrix().n;
    if (!IsIdentity(last_)) inputs.down.activation = &last_;
    inputs.down.residual = ResidualRows(kName, residual, shape, error);
    inputs.down.y = static_cast<float*>(context.Output(shape, error));
    if (error->failed()) return;
    if (!block_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    InferRows(api, context, kX, kDownScales, error);
  }

 private:
  LinearLayer up_;
  LinearLayer down_;
  Activation last_;
  FeedForward block_;
};

}  // namespace

const CustomOp* FusedFeedForwardOperator(int weight_bits) {
  return Operator<FusedFeedForward>::AtWidth(weight_bits);
}

}  // namespace edgefold::ort
