// SPDX-License-Identifier: Apache-2.0
#include "ops/feed_forward.h"

#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

// A layer and its storage.
struct LayerCase {
  LayerCase(Random& random, int64_t k, int64_t n, int bits, ActivationRange range)
      : matrix(random, bits, k, n, bits == 8 ? Tables::kSingle : Tables::kShift),
        scales(n),
        bias(n),
        linear(matrix.matrix, scales.data(), range) {
    for (float& scale : scales) scale = (random.Uniform() + 1.5f) / static_cast<float>(500 * k);
    for (float& value : bias) value = random.Uniform();
  }
  LayerCase(const LayerCase&) = delete;

  RandomMatrix matrix;
  std::vector<float> scales;
  std::vector<float> bias;
  Linear linear;
};

// All rows through the first layer, its function, and then all through the second and what follows.
bool RunInTurn(const FeedForwardInputs& inputs, const LayerCase& up, const Activation& activation,
               const LayerCase& down) {
  const int64_t rows = inputs.up.rows;
  const int64_t width = up.matrix.matrix.n;
  std::vector<float> hidden(rows * width);
  LinearInputs first = inputs.up;
  first.y = hidden.data();
  if (!up.linear.Run(first, Backwards())) return false;
  ActivationKernels().Choose().run(
      {activation, hidden.data(), width, rows, width, hidden.data(), width});
  LinearInputs second = inputs.down;
  second.x = hidden.data();
  second.rows = rows;
  second.residual = nullptr;
  second.activation = nullptr;
  if (!down.linear.Run(second, Backwards())) return false;
  const int64_t n = down.matrix.matrix.n;
  if (inputs.down.activation != nullptr) {
    ActivationKernels().Choose().run({*inputs.down.activation, second.y, n, rows, n, second.y, n});
  }
  const float* residual = inputs.down.residual;
  const int64_t size = residual == nullptr ? 0 : rows * n;
  for (int64_t i = 0; i < size; ++i) second.y[i] += residual[i];
  return true;
}

struct Sizes {
  int64_t in, hidden, out;
};

void Case(Random& random, const Sizes& sizes, int64_t rows, int bits, bool adds, Tally& tally) {
  const ActivationRange codes = {-127, 127, false, {}};
  const ActivationRange floats = {};
  const LayerCase up(random, sizes.in, sizes.hidden, bits, codes);
  const LayerCase down(random, sizes.hidden, sizes.out, bits, rows % 2 == 0 ? codes : floats);
  const Activation gelu = {ActivationKind::kGelu, 0.0f, 0.0f};
  const Activation tanh = {ActivationKind::kTanh, 0.0f, 0.0f};
  std::vector<float> x(rows * sizes.in);
  std::vector<float> residual(rows * sizes.out);
  for (float& value : x) value = random.Uniform() * 3.0f;
  for (float& value : residual) value = random.Uniform();
  Guarded<float> expected(rows * sizes.out);
  Guarded<float> got(rows * sizes.out);
  FeedForwardInputs inputs = {};
  inputs.up.x = x.data();
  inputs.up.rows = rows;
  inputs.up.bias = up.bias.data();
  inputs.down.bias = down.bias.data();
  inputs.down.residual = adds ? residual.data() : nullptr;
  inputs.down.activation = rows % 3 == 0 ? &tanh : nullptr;
  inputs.down.y = expected.data();
  bool ran = RunInTurn(inputs, up, gelu, down);
  inputs.down.y = got.data();
  ran = FeedForward(up.linear, gelu, down.linear).Run(inputs, Backwards()) && ran;
  char where[100];
  std::snprintf(where, sizeof where, "%d rows of %d, %d, %d, %d bits, residual %d",
                static_cast<int>(rows), static_cast<int>(sizes.in), static_cast<int>(sizes.hidden),
                static_cast<int>(sizes.out), bits, adds);
  tally.Check(ran && got.Equals(expected), where);
}

}  // namespace

std::vector<Tally> TestFeedForward() {
  std::vector<Tally> tallies = {TallyOf("feed_forward")};
  Random random(37);
  for (const Sizes& sizes : {Sizes{40, 70, 33}, Sizes{64, 160, 64}, Sizes{7, 5, 20}}) {
    for (int64_t rows : {0, 1, 9, 128, 130, 300}) {  // tiles have 128
      for (int bits : {4, 8}) {
        for (bool adds : {false, true}) Case(random, sizes, rows, bits, adds, tallies[0]);
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
