// SPDX-License-Identifier: Apache-2.0
#include "ort/node.h"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace edgefold::ort {
namespace {

// An attribute's name behind its layer's prefix.
struct AttributeName {
  AttributeName(const char* prefix, const char* name) {
    std::snprintf(text, sizeof text, "%s%s", prefix, name);
  }
  char text[64];
};

}  // namespace

Node Node::Layer(const char* prefix) const {
  Node layer = *this;
  layer.prefix_ = prefix;
  return layer;
}

int64_t Node::Int(const char* name, int64_t low, int64_t high) const {
  const AttributeName full(prefix_, name);
  int64_t value = 0;
  OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, full.text, &value);
  if (status != nullptr) {
    api_.ReleaseStatus(status);
    error_->Set("%s: the integer attribute '%s' is missing", op_, full.text);
    return low;
  }
  return IntOr(name, value, low, high);
}

int64_t Node::IntOr(const char* name, int64_t fallback, int64_t low, int64_t high) const {
  const AttributeName full(prefix_, name);
  int64_t value = fallback;
  OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, full.text, &value);
  if (status != nullptr) {
    api_.ReleaseStatus(status);
    value = fallback;
  }
  if (value < low || value > high) {
    error_->Set("%s: attribute '%s' is %lld; expected %lld to %lld", op_, full.text,
                static_cast<long long>(value), static_cast<long long>(low),
                static_cast<long long>(high));
    return low;
  }
  return value;
}

float Node::Float(const char* name, float low) const {
  const AttributeName full(prefix_, name);
  float value = 0.0f;
  OrtStatus* status = api_.KernelInfoGetAttribute_float(info_, full.text, &value);
  if (status != nullptr) {
    api_.ReleaseStatus(status);
    error_->Set("%s: the float attribute '%s' is missing", op_, full.text);
  } else if (!(value >= low)) {
    error_->Set("%s: attribute '%s' is %g; expected at least %g", op_, full.text, value, low);
  }
  return value;
}

int Node::Ints(const char* name, int64_t* out, int capacity) const {
  const AttributeName full(prefix_, name);
  size_t size = 0;
  OrtStatus* status = api_.KernelInfoGetAttributeArray_int64(info_, full.text, nullptr, &size);
  if (status != nullptr) api_.ReleaseStatus(status);
  if (status != nullptr || size > static_cast<size_t>(capacity)) {
    error_->Set("%s: attribute '%s' must be a list of at most %d integers", op_, full.text,
                capacity);
    return 0;
  }
  if (size == 0) return 0;
  error_->Take(api_, api_.KernelInfoGetAttributeArray_int64(info_, full.text, out, &size),
               "read a list attribute");
  return error_->failed() ? 0 : static_cast<int>(size);
}

void Node::InputName(size_t index, char* out, size_t size) const {
  out[0] = '\0';
  OrtStatus* status = api_.KernelInfo_GetInputName(info_, index, out, &size);
  if (status != nullptr) api_.ReleaseStatus(status);
}

Tensor Node::Constant(size_t index, const char* role, int type) const {
  Tensor tensor;
  if (error_->failed()) return tensor;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  OrtStatus* status = api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value);
  if (status != nullptr) api_.ReleaseStatus(status);
  if (status != nullptr || is_constant == 0 || value == nullptr) {
    char name[128];
    InputName(index, name, sizeof name);
    error_->Set("%s: input %zu (%s) '%s' must be an initializer", op_, index, role, name);
    return tensor;
  }
  tensor = ReadTensor(api_, value, error_);
  if (!error_->failed() && tensor.type != type) {
    error_->Set("%s: input %zu (%s) has element type %d; expected %d", op_, index, role,
                tensor.type, type);
  }
  return tensor;
}

void Node::Expect(const Tensor& tensor, const char* role, const Shape& wanted) const {
  if (error_->failed() || tensor.shape.Is(wanted.rank, wanted.dims)) return;
  char is[100];
  char expected[100];
  error_->Set("%s: %s has shape %s; expected %s", op_, role, ShapeText(tensor.shape, is, sizeof is),
              ShapeText(wanted, expected, sizeof expected));
}

PackedStack Node::ReadStack(size_t first, const char* k, bool stacked) const {
  PackedMatrix matrix = {};
  IntOr("layout", 1, 1, 1);
  matrix.bits = static_cast<int32_t>(Int("bits", 2, 8));
  matrix.k = Int(k, 1, int64_t{1} << 31);
  const Tensor codes = Constant(first, "codes", kUint8);
  const Tensor selectors = Constant(first + 1, "selectors", kUint8);
  const Tensor table = Constant(first + 2, "table", kInt8);
  const Tensor scales = Constant(first + 3, "scales", kFloat);
  if (error_->failed()) return {};
  const char* leading = stacked ? "experts, " : "";
  const int own = stacked ? 1 : 0;  // the dimension behind that of the stack
  if (scales.shape.rank != own + 1 || scales.shape.Elements() < 1) {
    error_->Set("%s: scales must have shape [%sN], N >= 1", op_, leading);
    return {};
  }
  matrix.n = scales.shape.dims[own];
  const int64_t most = std::min(kMaxTableBytes >> matrix.bits, kMaxTables);
  const int64_t tables = table.shape.rank == own + 2 ? table.shape.dims[own] : 0;
  if (tables < 1 || tables > most) {
    error_->Set("%s: table must have shape [%stables, %d], 1 to %lld tables", op_, leading,
                1 << matrix.bits, static_cast<long long>(most));
    return {};
  }
  matrix.tables = static_cast<int32_t>(tables);
  const int64_t count = stacked ? scales.shape.dims[0] : 1;
  const auto expect = [&](const Tensor& tensor, const char* role, const Shape& wanted) {
    Expect(tensor, role, stacked ? wanted : wanted.Tail());
  };
  expect(table, "table", {{count, tables, int64_t{1} << matrix.bits}, 3});
  expect(codes, "codes", {{count, matrix.Panels(), matrix.Units(), matrix.UnitBytes()}, 4});
  const bool one = tables == 1;
  expect(selectors, "selectors",
         {{count, one ? 1 : matrix.Panels(), one ? 1 : matrix.Groups(), 8}, 4});
  if (error_->failed()) return {};
  return {Matrices(matrix, count, codes, selectors, table), scales.As<float>()};
}

// Matrices of one form whose memory follows one another, with their contents checked.
std::vector<PackedMatrix> Node::Matrices(const PackedMatrix& form, int64_t count,
                                         const Tensor& codes, const Tensor& selectors,
                                         const Tensor& table) const {
  std::vector<PackedMatrix> matrices(count, form);
  for (int64_t i = 0; i < count; ++i) {
    PackedMatrix& matrix = matrices[i];
    matrix.codes = codes.As<uint8_t>() + i * (codes.shape.Elements() / count);
    matrix.selectors = selectors.As<uint8_t>() + i * (selectors.shape.Elements() / count);
    matrix.table = table.As<int8_t>() + i * (table.shape.Elements() / count);
    for (int64_t level = 0; level < table.shape.Elements() / count; ++level) {
      if (matrix.table[level] != -128) continue;
      error_->Set("%s: table holds -128; expected -127 to 127", op_);
    }
    if (!SelectorsValid(matrix)) {
      error_->Set("%s: a selector names a table beyond the %d there are", op_, matrix.tables);
    }
    DetectStructure(&matrix);
  }
  return matrices;
}

Weights Node::ReadWeights(size_t first) const {
  Weights weights;
  const PackedStack stored = ReadStack(first, "k", false);
  if (error_->failed()) return weights;
  weights.matrix = stored.matrices.front();
  weights.scales = stored.scales;
  if (weight_bits_ != 0 && weight_bits_ != weights.matrix.bits) {
    NarrowWeights(&weights);
  }
  return weights;
}

void Node::NarrowWeights(Weights* weights) const {
  const AttributeName narrow_bits(prefix_, "narrow_bits");
  const AttributeName narrow_scales(prefix_, "narrow_scales");
  int64_t widths[8];
  size_t count = sizeof widths / sizeof *widths;
  OrtStatus* missing =
      api_.KernelInfoGetAttributeArray_int64(info_, narrow_bits.text, widths, &count);
  if (missing != nullptr) return api_.ReleaseStatus(missing);  // a node of one width keeps it
  const int64_t* found = std::find(widths, widths + count, weight_bits_);
  if (found == widths + count) return;
  const int64_t n = weights->matrix.n;
  std::vector<float> all(count * n);
  size_t size = 0;
  error_->Take(api_,
               api_.KernelInfoGetAttributeArray_float(info_, narrow_scales.text, nullptr, &size),
               "count the attribute narrow_scales");
  if (size != all.size() || !CanNarrow(weights->matrix) || weight_bits_ > 7) {
    error_->Set("%s: narrow_bits needs one table of 8-bit levels and %zu narrow_scales, not %zu",
                op_, all.size(), size);
  }
  if (error_->failed()) return;
  error_->Take(api_,
               api_.KernelInfoGetAttributeArray_float(info_, narrow_scales.text, all.data(), &size),
               "read the attribute narrow_scales");
  if (error_->failed()) return;
  const float* scales = all.data() + (found - widths) * n;
  weights->narrow_scales.assign(scales, scales + n);
  weights->narrow = Narrow(weights->matrix, weight_bits_);
  weights->matrix = weights->narrow.matrix;
  weights->scales = weights->narrow_scales.data();
}

ActivationRange Node::CodeActivations() const {
  ActivationRange range = {};
  range.low = static_cast<int32_t>(Int("activation_low", -127, 0));
  const int operand = range.low < 0 ? 127 : 255;
  range.high = static_cast<int32_t>(Int("activation_high", 0, operand));
  range.x_codes = IntOr("x_codes", 0, 0, 1) == 1;
  if (range.x_codes && range.is_float()) {
    error_->Set("%s: attribute 'x_codes' is 1 where activation_high is 0", op_);
  }
  return range;
}

ActivationRange Node::Activations(size_t shifts, int64_t channels) const {
  ActivationRange range = CodeActivations();
  const Tensor given = Constant(shifts, "x_shifts", kUint8);
  if (error_->failed()) return range;
  const bool one = given.shape.rank == 1 && given.shape.dims[0] == 1;
  if (!one) Expect(given, "x_shifts", {{channels}, 1});
  if (error_->failed() || range.is_float()) return range;

  const int operand = range.low < 0 ? 127 : 255;
  const int largest = std::max(range.high, -range.low);
  const uint8_t* values = given.As<uint8_t>();
  bool any = false;
  for (int64_t k = 0; k < given.shape.Elements(); ++k) {
    any = any || values[k] > 0;
    if (values[k] < 8 && largest << values[k] <= operand) continue;
    error_->Set("%s: x_shifts holds %d; codes of %d to %d times 2^x_shifts must be at most %d", op_,
                values[k], range.low, range.high, operand);
    return range;
  }
  if (!any) return range;
  range.steps.resize(channels);
  for (int64_t k = 0; k < channels; ++k) {
    range.steps[k] = static_cast<float>(1 << values[one ? 0 : k]);
  }
  return range;
}

Activation Node::Function() const {
  constexpr float kAny = -std::numeric_limits<float>::infinity();
  const int64_t kind = Int("function", 0, kActivationKinds - 1);
  const Activation f = {static_cast<ActivationKind>(kind), Float("alpha", kAny),
                        Float("beta", kAny)};
  if (f.kind == ActivationKind::kLeakyRelu && !(std::abs(f.alpha) <= 1.0f)) {
    const AttributeName full(prefix_, "alpha");
    error_->Set("%s: attribute '%s' is %g; expected -1 to 1", op_, full.text, f.alpha);
  }
  return f;
}

Activation Node::FunctionOrNone() const {
  const AttributeName full(prefix_, "function");
  int64_t kind = 0;
  OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, full.text, &kind);
  if (status == nullptr) return Function();
  api_.ReleaseStatus(status);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return {ActivationKind::kClip, -kInfinity, kInfinity};
}

void ExpectElements(const char* op, const Tensor& x, const ActivationRange& range, Error* error) {
  const int wanted = !range.x_codes ? kFloat : range.is_unsigned() ? kUint8 : kInt8;
  if (error->failed() || x.type == wanted) return;
  error->Set("%s: x has element type %d; expected %d", op, x.type, wanted);
}

}  // namespace edgefold::ort
