// SPDX-License-Identifier: Apache-2.0
// ShiftMoE(x, gates, then codes, selectors, table, scales and bias of gate, of up and of down) -> y
#include <cmath>
#include <utility>

#include "ops/moe.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

class ShiftMoE {
 public:
  static constexpr const char* kName = "ShiftMoE";
  static constexpr int kInputTypes[] = {kFloat, kFloat, kUint8, kUint8, kInt8,  kFloat,
                                        kFloat, kUint8, kUint8, kInt8,  kFloat, kFloat,
                                        kUint8, kUint8, kInt8,  kFloat, kFloat};
  enum Input { kX, kGates, kGate, kUp = 7, kDown = 12 };

  explicit ShiftMoE(MixtureOfExperts experts) : experts_(std::move(experts)) {}

  static ShiftMoE* Create(const Node& node) {
    const bool gated = node.Int("gated", 0, 1) == 1;
    node.Int("k", 1, kMaxIntegerDepth);
    node.Int("hidden", 1, kMaxIntegerDepth);
    ExpertProducts gate = ReadProducts(node, kGate, "k");
    ExpertProducts up = gated ? ReadProducts(node, kUp, "k") : ExpertProducts{};
    ExpertProducts down = ReadProducts(node, kDown, "hidden");
    const Gating gating = ReadGating(node);
    if (node.error()->failed()) return nullptr;
    const PackedMatrix& in = gate.experts.front().matrix();
    const PackedMatrix& out = down.experts.front().matrix();
    const bool fits = in.n == out.k && in.k == out.n && gate.experts.size() == down.experts.size();
    const bool up_fits = !gated || (up.experts.size() == gate.experts.size() &&
                                    up.experts.front().matrix().n == in.n);
    if (!fits || !up_fits) {
      node.error()->Set("%s: gate and up must be [experts, %lld, %lld], down the other way round",
                        kName, static_cast<long long>(in.k), static_cast<long long>(out.k));
      return nullptr;
    }
    return new ShiftMoE({std::move(gate), std::move(up), std::move(down), gating});
  }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(kX, error);
    const Tensor gates = context.Input(kGates, error);
    if (error->failed()) return;
    const int64_t k = experts_.k();
    if (x.shape.rank < 1 || x.shape.dims[x.shape.rank - 1] != k) {
      char text[100];
      error->Set("%s: x has shape %s; expected [..., %lld]", kName,
                 ShapeText(x.shape, text, sizeof text), static_cast<long long>(k));
      return;
    }
    const int64_t tokens = x.shape.Elements() / k;
    const Shape wanted = {{tokens, experts_.experts()}, 2};
    if (!gates.shape.Is(2, wanted.dims)) {
      char is[100];
      char expected[100];
      error->Set("%s: gates has shape %s; expected %s", kName,
                 ShapeText(gates.shape, is, sizeof is),
                 ShapeText(wanted, expected, sizeof expected));
      return;
    }
    float* y = static_cast<float*>(context.Output(x.shape, error));
    if (error->failed()) return;
    const MoeInputs inputs = {x.As<float>(), gates.As<float>(), tokens, y};
    if (!experts_.Run(inputs, context.Threads())) error->Set("%s: out of memory", kName);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    if (InferredInput(api, context, kX, &x)) InferredOutput(api, context, kFloat, x, error);
  }

 private:
  static ExpertProducts ReadProducts(const Node& node, size_t first, const char* k) {
    const PackedStack stack = node.ReadStack(first, k, true);
    const Tensor bias = node.Constant(first + 4, "bias", kFloat);
    if (node.error()->failed()) return {};
    const int64_t count = static_cast<int64_t>(stack.matrices.size());
    const int64_t n = stack.matrices.front().n;
    const bool one = bias.shape.Elements() == 1 && bias.shape.rank == 2;
    if (!one) node.Expect(bias, "bias", {{count, n}, 2});
    ExpertProducts products = {{}, bias.As<float>(), one};
    for (int64_t e = 0; e < count; ++e) {
      products.experts.emplace_back(stack.matrices[e], stack.scales + e * n);
    }
    return products;
  }

  static Gating ReadGating(const Node& node) {
    Gating gating = {};
    gating.activation = node.Function();
    gating.limit = node.Float("limit", 0.0f);
    gating.up_offset = node.Float("up_offset", -INFINITY);
    return gating;
  }

  MixtureOfExperts experts_;
};

}  // namespace

const CustomOp* ShiftMoEOperator() {
  static const CustomOp op = Operator<ShiftMoE>::Make();
  return &op;
}

}  // namespace edgefold::ort
