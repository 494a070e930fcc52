// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/l1_norm/test_rows.h"
#include "kernels/l2_norm/l2_norm.h"

namespace edgefold::selftest {
namespace {

// The reference against LayerNormalization in double: levels are within half a step of 1 / 16383 of
// the largest value, and so is the mean.
bool NearExact(Random& random) {
  constexpr int64_t kColumns = 384;
  std::vector<float> x, gamma(kColumns, 1.0f), beta(kColumns, 0.0f), y(kColumns);
  std::vector<int16_t> scratch(kColumns);
  double mean = 0.0;
  double largest = 0.0;
  for (int64_t i = 0; i < kColumns; ++i) {
    x.push_back(random.Uniform() * 3.0f + 0.5f);
    mean += x.back() / static_cast<double>(kColumns);
    largest = std::fmax(largest, std::fabs(x.back()));
  }
  double variance = 0.0;
  for (float value : x) variance += (value - mean) * (value - mean) / kColumns;
  L1NormArguments n = {};
  n.x = x.data();
  n.rows = 1;
  n.columns = kColumns;
  n.centred = true;
  n.epsilon = 1e-5f;
  n.gamma = gamma.data();
  n.beta = beta.data();
  n.y = y.data();
  n.scratch = scratch.data();
  l2_norm_reference(n);
  const double deviation = std::sqrt(variance + 1e-5);
  const double tolerance = 1.5 * largest / 16383.0 / deviation;
  for (int64_t i = 0; i < kColumns; ++i) {
    if (std::fabs(y[i] - (x[i] - mean) / deviation) > tolerance) return false;
  }
  return true;
}

}  // namespace

std::vector<Tally> TestL2Norm() {
  std::vector<Tally> tallies = TestNorm(L2NormKernels(), l2_norm_reference);
  Random random(23);
  tallies.back().Check(NearExact(random), "against double");
  return tallies;
}

}  // namespace edgefold::selftest
