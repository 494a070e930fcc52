// SPDX-License-Identifier: Apache-2.0
#include "ops/moe.h"

#include <algorithm>
#include <memory>

#include "ops/linear.h"
#include "ops/test/stage_cases.h"

namespace edgefold::selftest {
namespace {

struct LayerSize {
  int64_t experts, k, hidden;
};

// The same product of every expert, and its storage.
struct ProductsCase {
  ProductsCase(Random& random, int64_t experts, int64_t k, int64_t n, bool shift)
      : scales(experts * n), bias(experts * n) {
    for (float& scale : scales) scale = (random.Uniform() + 1.5f) / static_cast<float>(500 * k);
    for (float& value : bias) value = random.Uniform();
    for (int64_t e = 0; e < experts; ++e) {
      const Tables tables = shift ? Tables::kShift : Tables::kSymmetric;
      matrices.push_back(std::make_unique<RandomMatrix>(random, 4, k, n, tables));
    }
  }
  ProductsCase(const ProductsCase&) = delete;

  ExpertProducts Products() const {
    ExpertProducts products = {{}, bias.data(), false};
    for (size_t e = 0; e < matrices.size(); ++e) {
      const PackedMatrix& matrix = matrices[e]->matrix;
      products.experts.emplace_back(matrix, scales.data() + e * matrix.n);
    }
    return products;
  }

  // One expert's product by Linear.
  bool Run(int64_t expert, const std::vector<float>& x, std::vector<float>* y) const {
    const PackedMatrix& matrix = matrices[expert]->matrix;
    LinearInputs in = {};
    in.x = x.data();
    in.rows = static_cast<int64_t>(x.size()) / matrix.k;
    in.bias = bias.data() + expert * matrix.n;
    y->resize(in.rows * matrix.n);
    in.y = y->data();
    const Linear linear(matrix, scales.data() + expert * matrix.n, {-127, 127, false, {}});
    return linear.Run(in, Backwards());
  }

  std::vector<std::unique_ptr<RandomMatrix>> matrices;
  std::vector<float> scales;
  std::vector<float> bias;
};

struct LayerCase {
  LayerCase(Random& random, const LayerSize& size, bool shift, bool has_up)
      : gate(random, size.experts, size.k, size.hidden, shift),
        up(random, has_up ? size.experts : 0, size.k, size.hidden, shift),
        down(random, size.experts, size.hidden, size.k, shift) {}

  ProductsCase gate;
  ProductsCase up;
  ProductsCase down;
};

// An expert's output for some rows, its products one after the other.
bool RunExpert(const LayerCase& layer, const Gating& gating, int64_t expert,
               const std::vector<float>& x, std::vector<float>* y) {
  std::vector<float> hidden;
  std::vector<float> factors;
  if (!layer.gate.Run(expert, x, &hidden)) return false;
  for (float& value : hidden) value = value < gating.limit ? value : gating.limit;
  const int64_t size = static_cast<int64_t>(hidden.size());
  ActivationKernels().Choose().run(
      {gating.activation, hidden.data(), size, 1, size, hidden.data(), size});
  if (!layer.up.matrices.empty()) {
    if (!layer.up.Run(expert, x, &factors)) return false;
    for (int64_t i = 0; i < size; ++i) {
      const float above = factors[i] < gating.limit ? factors[i] : gating.limit;
      hidden[i] *= (above > -gating.limit ? above : -gating.limit) + gating.up_offset;
    }
  }
  return layer.down.Run(expert, hidden, y);
}

// All experts in ascending order, each on the rows routed to it.
bool RunExperts(const LayerCase& layer, const Gating& gating, const LayerSize& size,
                const MoeInputs& in, float* y) {
  std::fill(y, y + in.tokens * size.k, 0.0f);
  for (int64_t e = 0; e < size.experts; ++e) {
    std::vector<int64_t> rows;
    std::vector<float> x;
    std::vector<float> result;
    for (int64_t t = 0; t < in.tokens; ++t) {
      if (in.gates[t * size.experts + e] == 0.0f) continue;
      rows.push_back(t);
      x.insert(x.end(), in.x + t * size.k, in.x + (t + 1) * size.k);
    }
    if (rows.empty()) continue;
    if (!RunExpert(layer, gating, e, x, &result)) return false;
    for (size_t i = 0; i < rows.size(); ++i) {
      const float gate = in.gates[rows[i] * size.experts + e];
      for (int64_t n = 0; n < size.k; ++n) {
        y[rows[i] * size.k + n] += result[i * size.k + n] * gate;
      }
    }
  }
  return true;
}

// Expert 1 gets no token; the others each about `share` of a hundred.
std::vector<float> RandomGates(Random& random, int64_t tokens, int64_t experts, int share) {
  std::vector<float> gates(tokens * experts);
  for (int64_t i = 0; i < tokens * experts; ++i) {
    if (i % experts != 1 && random.Range(1, 100) <= share) gates[i] = random.Uniform();
  }
  return gates;
}

void Case(Random& random, const LayerSize& size, int64_t tokens, bool shift, bool has_up,
          const Gating& gating, Tally& tally) {
  const LayerCase layer(random, size, shift, has_up);
  std::vector<float> x(tokens * size.k);
  for (float& value : x) value = random.Uniform() * 3.0f;
  const std::vector<float> gates =
      RandomGates(random, tokens, size.experts, random.Range(0, 1) == 0 ? 30 : 90);
  Guarded<float> expected(tokens * size.k);
  Guarded<float> got(tokens * size.k);
  const MoeInputs inputs = {x.data(), gates.data(), tokens, got.data()};
  const MixtureOfExperts experts(layer.gate.Products(), layer.up.Products(), layer.down.Products(),
                                 gating);
  bool ran = RunExperts(layer, gating, size, inputs, expected.data());
  ran = experts.Run(inputs, Backwards()) && ran;
  char where[100];
  std::snprintf(where, sizeof where, "%d experts of %dx%d, %d tokens, shift %d, up %d",
                static_cast<int>(size.experts), static_cast<int>(size.k),
                static_cast<int>(size.hidden), static_cast<int>(tokens), shift, has_up);
  tally.Check(ran && got.Equals(expected), where);
}

}  // namespace

std::vector<Tally> TestMoe() {
  std::vector<Tally> tallies = {TallyOf("moe")};
  Random random(31);
  constexpr float kNone = __builtin_inff();
  const Gating silu = {{ActivationKind::kSwish, 1.0f, 0.0f}, kNone, 0.0f};
  const Gating clamped = {{ActivationKind::kSwish, 1.702f, 0.0f}, 0.5f, 1.0f};
  for (const LayerSize& size :
       {LayerSize{3, 40, 50}, LayerSize{2, 64, 160}, LayerSize{5, 33, 17}}) {
    for (int64_t tokens : {0, 1, 7, 64, 150}) {
      for (bool shift : {false, true}) {
        for (bool has_up : {false, true}) {
          const Gating& gating = tokens % 2 == 0 ? silu : clamped;
          Case(random, size, tokens, shift, has_up, gating, tallies[0]);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
