// SPDX-License-Identifier: Apache-2.0
#include "bench/instructions/cases.h"
#include "kernels/activation/activation.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/l1_norm/l1_norm.h"
#include "kernels/l2_norm/l2_norm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/quantize_panels/quantize_panels.h"
#include "kernels/row_dots/row_dots.h"
#include "kernels/row_sums/row_sums.h"
#include "kernels/softmax/softmax.h"
#include "selftest.h"

namespace edgefold::instructions {
namespace {

using selftest::Random;

// 16 rows of a MiniLM layer.
constexpr int64_t kRows = 16;
constexpr int64_t kColumns = 384;

std::vector<float> Floats(Random& random, int64_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = random.Uniform() * 4.0f;
  return values;
}

void Quantize(Random& random) {
  const std::vector<float> x = Floats(random, kRows * kColumns);
  std::vector<float> steps(kColumns), scales(kRows);
  for (float& step : steps) step = static_cast<float>(1 << random.Range(0, 4));
  std::vector<uint8_t> codes(kRows * kColumns);
  std::vector<int32_t> sums(kRows);
  std::vector<int16_t> pair_sums(kRows * kColumns / 8);
  QuantizeArguments q = {
      x.data(),     kColumns, kRows,         kColumns,    nullptr,         0.0f, -127, 127,
      codes.data(), kColumns, scales.data(), sums.data(), pair_sums.data()};
  const auto count = [&](const char* name) {
    Count(name, [&] { QuantizeKernels().Choose().run(q); });
  };
  count("quantize 16x384 dynamic");
  q.static_scale = 0.04f;
  count("quantize 16x384 static");
  q.steps = steps.data();
  q.low = -7;
  q.high = 7;
  count("quantize 16x384 static, shifts");
}

// A head of MiniLM: 128 positions of depth 32.
void Attention(Random& random) {
  constexpr int64_t kPositions = 128, kDepth = 32;
  const std::vector<float> x = Floats(random, kPositions * kDepth);
  std::vector<int8_t> panels(kPositions * kDepth);
  std::vector<float> scales(kPositions);
  for (bool transposed : {false, true}) {
    const QuantizePanelsArguments q = {x.data(),   kDepth,        kPositions,   kDepth,
                                       transposed, panels.data(), scales.data()};
    Count(transposed ? "quantize_panels 128x32 transposed" : "quantize_panels 128x32",
          [&] { QuantizePanelsKernels().Choose().run(q); });
  }
  std::vector<float> scores = Floats(random, kRows * kPositions), steps(kRows);
  const std::vector<float> factors(kPositions, 0.02f);
  std::vector<uint8_t> codes(kRows * kPositions);
  const SoftmaxArguments s = {scores.data(),  kPositions,   kRows,      kPositions,
                              factors.data(), codes.data(), kPositions, steps.data()};
  Count("softmax 16x128", [&] { SoftmaxKernels().Choose().run(s); });
}

// A query over 128 positions of a cache of codes.
void CachedRows(Random& random) {
  constexpr int64_t kPositions = 128;
  constexpr int64_t kDepth = 64;
  std::vector<int8_t> x(kDepth), rows(kPositions * kDepth);
  std::vector<uint8_t> weights(kPositions);
  for (int8_t& code : x) code = static_cast<int8_t>(random.Range(-127, 127));
  for (int8_t& code : rows) code = static_cast<int8_t>(random.Range(-127, 127));
  for (uint8_t& weight : weights) weight = static_cast<uint8_t>(random.Range(0, 255));
  std::vector<int32_t> dots(kPositions), sums(kDepth);
  const RowDotsArguments d = {x.data(),   kDepth, 1,           rows.data(), kDepth,
                              kPositions, kDepth, dots.data(), kPositions};
  Count("row_dots 1x128x64", [&] { RowDotsKernels().Choose().run(d); });
  const RowSumsArguments s = {weights.data(), kPositions, 1,           rows.data(), kDepth,
                              kPositions,     kDepth,     sums.data(), kDepth};
  Count("row_sums 1x128x64", [&] { RowSumsKernels().Choose().run(s); });
}

void Norms(Random& random) {
  const std::vector<float> x = Floats(random, kRows * kColumns), gamma = Floats(random, kColumns);
  std::vector<float> y(kRows * kColumns);
  std::vector<int8_t> codes(kRows * kColumns);
  std::vector<int16_t> scratch(kColumns);
  L1NormArguments n = {};
  n.x = x.data();
  n.rows = kRows;
  n.columns = kColumns;
  n.centred = true;
  n.epsilon = 1e-3f;
  n.gamma = n.beta = gamma.data();
  n.high = 127.0f;
  n.y = y.data();
  n.y_codes = codes.data();
  n.scratch = scratch.data();
  Count("l1_norm 16x384", [&] { L1NormKernels().Choose().run(n); });
  Count("l2_norm 16x384", [&] { L2NormKernels().Choose().run(n); });
  n.y = nullptr;
  Count("l1_norm 16x384 to codes", [&] { L1NormKernels().Choose().run(n); });
}

void Activations(Random& random) {
  const std::vector<float> x = Floats(random, kRows * kColumns);
  std::vector<float> y(kRows * kColumns);
  const auto count = [&](const char* name, Activation activation) {
    const ActivationArguments a = {activation, x.data(), kColumns, kRows,
                                   kColumns,   y.data(), kColumns};
    Count(name, [&] { ActivationKernels().Choose().run(a); });
  };
  count("activation 16x384 tanh", {ActivationKind::kTanh, 0.0f, 0.0f});
  count("activation 16x384 swish", {ActivationKind::kSwish, 1.0f, 0.0f});
  count("activation 16x384 gelu", {ActivationKind::kGelu, 0.0f, 0.0f});
}

void Epilogue(Random& random) {
  std::vector<int32_t> acc(kRows * kColumns);
  for (int32_t& sum : acc) sum = random.Range(-40000, 40000);
  const std::vector<float> row_scales = Floats(random, kRows), scales = Floats(random, kColumns);
  std::vector<float> y(kRows * kColumns);
  const EpilogueArguments e = {acc.data(),    kColumns,      kRows, kColumns, row_scales.data(),
                               scales.data(), scales.data(), false, y.data(), kColumns};
  Count("epilogue 16x384", [&] { EpilogueKernels().Choose().run(e); });
}

}  // namespace

void CountRows() {
  Random random(2);
  Quantize(random);
  Attention(random);
  CachedRows(random);
  Norms(random);
  Activations(random);
  Epilogue(random);
}

}  // namespace edgefold::instructions
