// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernels/activation/activation.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

// Values of many sizes, the ends of the formulas' intervals, and what is not a number.
std::vector<float> Values(Random& random, int64_t count) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float odd[] = {
      0.0f,   -0.0f,  kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
      5.4f,   -5.4f,  0.625f,    -0.625f,    -86.0f,
      1e-42f, -1e20f, 3e38f,     -100.0f,    43.0f};
  std::vector<float> x(count);
  for (float& value : x) {
    const float uniform = random.Uniform();
    const float sizes[] = {uniform, uniform * 8.0f, uniform * 100.0f, odd[random.Next() % 15]};
    value = sizes[random.Next() % 4];
  }
  return x;
}

}  // namespace

std::vector<Tally> TestActivation() {
  const KernelTable<ActivationKernel> kernels = ActivationKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(17);
  for (int kind = 0; kind < kActivationKinds; ++kind) {
    for (int64_t columns : {0, 1, 3, 4, 7, 8, 9, 16, 31, 200}) {
      for (int64_t rows : {0, 1, 3}) {
        const int64_t stride = columns + random.Range(0, 3);
        const std::vector<float> x = Values(random, rows * stride);
        ActivationArguments a = {};
        a.activation = {static_cast<ActivationKind>(kind), 0.2f, 1.7f};
        a.x = x.data();
        a.x_stride = stride;
        a.rows = rows;
        a.columns = columns;
        a.y_stride = columns + 2;
        Guarded<float> expected(rows * a.y_stride);
        a.y = expected.data();
        activation_reference(a);
        for (size_t i = 0; i < kernels.size; ++i) {
          if (!tallies[i].supported) continue;
          Guarded<float> got(rows * a.y_stride);
          a.y = got.data();
          kernels.rows[i].run(a);
          char where[60];
          std::snprintf(where, sizeof where, "kind %d rows %d columns %d", kind,
                        static_cast<int>(rows), static_cast<int>(columns));
          tallies[i].Check(got.Equals(expected), where);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
