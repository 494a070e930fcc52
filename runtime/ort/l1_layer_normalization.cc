// SPDX-License-Identifier: Apache-2.0
// L1LayerNormalization(x, gamma, beta, shifts) -> y, for float32 and int8 x and y
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "base/scratch.h"
#include "kernels/l1_norm/l1_norm.h"
#include "ort/operator.h"

namespace edgefold::ort {
namespace {

constexpr int64_t kElementsPerTask = 1 << 16;
constexpr int kMaxCode = 127;

class L1Norm {
 public:
  static constexpr const char* kName = "L1LayerNormalization";
  enum Input { kX, kGamma, kBeta, kShifts };

  // What all four forms share: everything but the element types of x and y.
  L1Norm(const Node& node, bool to_codes) : run_(L1NormKernels().Choose().run) {
    const Tensor gamma = node.Constant(kGamma, "gamma", kFloat);
    const Tensor beta = node.Constant(kBeta, "beta", kFloat);
    const Tensor shifts = node.Constant(kShifts, "shifts", kUint8);
    n_.columns = gamma.shape.Elements();
    n_.gamma = gamma.As<float>();
    n_.beta = beta.As<float>();
    n_.epsilon = node.Float("epsilon", 0.0f);
    n_.centred = node.Int("centred", 0, 1) != 0;
    const int low = to_codes ? 1 : 0;
    n_.high = static_cast<float>(node.Int("activation_high", low, to_codes ? kMaxCode : 0));
    Error* error = node.error();
    if (error->failed()) return;
    const bool vectors = gamma.shape.rank == 1 && beta.shape.Is(1, gamma.shape.dims);
    if (!vectors || n_.columns < 1 || n_.columns > kL1NormColumns) {
      error->Set("%s: gamma and beta must have one shape [D], D from 1 to %lld", kName,
                 static_cast<long long>(kL1NormColumns));
      return;
    }
    if (to_codes) CheckRange(error);
    ReadShifts(shifts, error);
  }

  void Run(const Context& context, const Tensor& x, void* y, Error* error) const {
    const int64_t rows = x.shape.Elements() / n_.columns;
    const int64_t share = std::max<int64_t>(kElementsPerTask / n_.columns, 1);
    std::atomic<bool> enough_memory{true};
    context.Threads().For((rows + share - 1) / share, [&](size_t index) {
      const int64_t first = static_cast<int64_t>(index) * share;
      if (!Task(x, y, first, std::min(share, rows - first))) enough_memory = false;
    });
    if (!enough_memory) error->Set("%s: out of memory", kName);
  }

  bool Fits(const Shape& x, Error* error) const {
    if (x.rank >= 1 && x.dims[x.rank - 1] == n_.columns) return true;
    char text[100];
    error->Set("%s: x has shape %s; expected [..., %lld]", kName, ShapeText(x, text, sizeof text),
               static_cast<long long>(n_.columns));
    return false;
  }

 private:
  // The kernels convert y to int32, and |d| * scale is at most the number of columns.
  void CheckRange(Error* error) const {
    float gamma = 0.0f;
    float beta = 0.0f;
    bool finite = true;
    for (int64_t i = 0; i < n_.columns; ++i) {
      gamma = std::max(gamma, std::fabs(n_.gamma[i]));
      beta = std::max(beta, std::fabs(n_.beta[i]));
      finite = finite && std::isfinite(n_.gamma[i]) && std::isfinite(n_.beta[i]);
    }
    if (!finite || static_cast<float>(n_.columns) * gamma + beta > 0x1p30f) {
      error->Set("%s: gamma or beta is not finite or too large to give codes", kName);
    }
  }

  void ReadShifts(const Tensor& shifts, Error* error) {
    const int64_t count = shifts.shape.Elements();
    if (shifts.shape.rank != 1 || (count != 1 && count != n_.columns)) {
      error->Set("%s: shifts must have shape [%lld] or [1]", kName,
                 static_cast<long long>(n_.columns));
      return;
    }
    const uint8_t* shift = shifts.As<uint8_t>();
    const int most = *std::max_element(shift, shift + count);
    if (most > 6 || static_cast<int>(n_.high) << most > kMaxCode) {
      error->Set("%s: code %d shifted by %d does not fit int8", kName, static_cast<int>(n_.high),
                 most);
      return;
    }
    if (most == 0) return;
    steps_.resize(n_.columns);
    for (int64_t i = 0; i < n_.columns; ++i) {
      steps_[i] = static_cast<int16_t>(1 << shift[count == 1 ? 0 : i]);
    }
  }

  bool Task(const Tensor& x, void* y, int64_t first, int64_t rows) const {
    const Scratch scratch = AllocateScratch(n_.columns * 2);
    if (scratch == nullptr) return false;
    const int64_t at = first * n_.columns;
    L1NormArguments n = n_;
    n.rows = rows;
    n.x = x.type == kFloat ? x.As<float>() + at : nullptr;
    n.x_codes = x.type == kFloat ? nullptr : x.As<int8_t>() + at;
    n.y = n.high == 0.0f ? static_cast<float*>(y) + at : nullptr;
    n.y_codes = n.high == 0.0f ? nullptr : static_cast<int8_t*>(y) + at;
    n.steps = steps_.empty() ? nullptr : steps_.data();
    n.scratch = reinterpret_cast<int16_t*>(scratch.get());
    run_(n);
    return true;
  }

  L1NormArguments n_ = {};
  std::vector<int16_t> steps_;
  L1NormKernel* run_;
};

template <int kXType, int kYType>
class Form {
 public:
  static constexpr const char* kName = L1Norm::kName;
  static constexpr int kInputTypes[] = {kXType, kFloat, kFloat, kUint8};
  static constexpr int kOutputType = kYType;

  explicit Form(const Node& node) : norm_(node, kYType == kInt8) {}

  static Form* Create(const Node& node) { return new Form(node); }

  void Compute(const Context& context, Error* error) const {
    const Tensor x = context.Input(L1Norm::kX, error);
    if (error->failed() || !norm_.Fits(x.shape, error)) return;
    void* y = context.Output(x.shape, error);
    if (!error->failed()) norm_.Run(context, x, y, error);
  }

  static void InferShape(const Api& api, OrtShapeInferContext* context, Error* error) {
    SymbolicShape x;
    if (!InferredInput(api, context, L1Norm::kX, &x)) return;
    const int64_t high = InferredInt(api, context, "activation_high");
    InferredOutput(api, context, high > 0 ? kInt8 : kFloat, x, error);
  }

 private:
  L1Norm norm_;
};

}  // namespace

const CustomOp* L1NormFloatToFloat() {
  static const CustomOp op = Operator<Form<kFloat, kFloat>>::Make();
  return &op;
}

const CustomOp* L1NormFloatToCodes() {
  static const CustomOp op = Operator<Form<kFloat, kInt8>>::Make();
  return &op;
}

const CustomOp* L1NormCodesToFloat() {
  static const CustomOp op = Operator<Form<kInt8, kFloat>>::Make();
  return &op;
}

const CustomOp* L1NormCodesToCodes() {
  static const CustomOp op = Operator<Form<kInt8, kInt8>>::Make();
  return &op;
}

}  // namespace edgefold::ort
