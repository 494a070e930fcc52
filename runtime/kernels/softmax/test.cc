// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernels/softmax/softmax.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Scores of many sizes; kind 1: some masked, 2: all of them, 3: what is not a number among them.
std::vector<float> Scores(Random& random, int64_t count, int kind) {
  const float odd[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), -3.4e38f};
  std::vector<float> x(count);
  for (float& value : x) {
    value = random.Uniform() * (random.Next() % 2 == 0 ? 3.0f : 60.0f);
    if (kind == 2 || kind == 1 && random.Next() % 2 == 0) value = -kInfinity;
    if (kind == 3 && random.Next() % 4 == 0) value = odd[random.Next() % 4];
  }
  return x;
}

// Scales of values; some are zero, of kind 2 all.
std::vector<float> Factors(Random& random, int64_t count, int kind) {
  std::vector<float> factors(count);
  for (float& factor : factors) {
    factor = kind == 2 || random.Next() % 8 == 0 ? 0.0f : random.Uniform() + 1.0f;
  }
  return factors;
}

}  // namespace

std::vector<Tally> TestSoftmax() {
  const KernelTable<SoftmaxKernel> kernels = SoftmaxKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(23);
  for (int kind = 0; kind < 4; ++kind) {
    for (int64_t columns : {0, 1, 3, 4, 7, 8, 9, 31, 32, 200}) {
      for (int64_t rows : {0, 1, 3, 9}) {
        SoftmaxArguments s = {};
        s.x_stride = columns + random.Range(0, 3);
        s.rows = rows;
        s.columns = columns;
        s.stride = (columns + 31) / 32 * 32;
        const std::vector<float> x = Scores(random, rows * s.x_stride, kind);
        const std::vector<float> factors = Factors(random, columns, kind);
        s.factors = factors.data();
        std::vector<float> weights = x;
        s.x = weights.data();
        Guarded<uint8_t> codes(rows * s.stride);
        Guarded<float> steps(rows);
        s.codes = codes.data();
        s.steps = steps.data();
        softmax_reference(s);
        for (size_t i = 0; i < kernels.size; ++i) {
          if (!tallies[i].supported) continue;
          Guarded<uint8_t> got_codes(rows * s.stride);
          Guarded<float> got_steps(rows);
          std::vector<float> got_weights = x;
          s.x = got_weights.data();
          s.codes = got_codes.data();
          s.steps = got_steps.data();
          kernels.rows[i].run(s);
          char where[60];
          std::snprintf(where, sizeof where, "kind %d rows %d columns %d", kind,
                        static_cast<int>(rows), static_cast<int>(columns));
          tallies[i].Check(got_codes.Equals(codes) && got_steps.Equals(steps), where);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
