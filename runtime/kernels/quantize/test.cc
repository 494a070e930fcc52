// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernels/quantize/quantize.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

struct Outputs {
  Guarded<uint8_t> codes;
  Guarded<float> scales;
  Guarded<int32_t> sums;
  Guarded<int16_t> pair_sums;

  Outputs(int64_t rows, int64_t stride)
      : codes(rows * stride), scales(rows), sums(rows), pair_sums(rows * stride / 8) {}

  void Run(QuantizeKernel* kernel, QuantizeArguments q, bool pairs) {
    q.codes = codes.data();
    q.row_scales = scales.data();
    q.sums = sums.data();
    q.pair_sums = pairs ? pair_sums.data() : nullptr;
    kernel(q);
  }
  bool Equals(const Outputs& o) const {
    return codes.Equals(o.codes) && scales.Equals(o.scales) && sums.Equals(o.sums) &&
           pair_sums.Equals(o.pair_sums);
  }
};

// Values of many sizes, exact halves of a static scale of 1, and what is not a number.
std::vector<float> Values(Random& random, int64_t count, int kind) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float odd[] = {
      0.0f,   -0.0f, kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
      1e-38f, 3e38f, 1e-31f,    127.5f,     -127.5f};
  std::vector<float> x(count);
  for (float& value : x) {
    value = random.Uniform() * 3.0f;
    if (kind == 1) value = static_cast<float>(random.Range(-300, 600)) * 0.5f;
    if (kind == 2) value = random.Uniform() * 1e-30f;
    if (kind == 3 && random.Next() % 4 == 0) value = odd[random.Next() % 10];
    if (kind == 4) value = 0.0f;
  }
  return x;
}

// Steps that keep the operands of a range within 8 bits, or none.
std::vector<float> Steps(Random& random, int64_t stride, int low, int high) {
  std::vector<float> steps(stride, 1.0f);
  const int largest = (low < 0 ? 127 : 255) / high;
  for (float& step : steps) {
    while (step * 2.0f <= static_cast<float>(largest) && random.Range(0, 1) == 1) step *= 2.0f;
  }
  return steps;
}

}  // namespace

std::vector<Tally> TestQuantize() {
  const KernelTable<QuantizeKernel> kernels = QuantizeKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(5);
  const int ranges[][2] = {{-127, 127}, {0, 255}, {-7, 7}, {0, 15}, {-31, 31}, {0, 1}};
  for (const auto& range : ranges) {
    for (int kind = 0; kind < 5; ++kind) {
      for (int64_t columns : {1, 7, 8, 9, 31, 32, 33, 61, 64, 131}) {
        for (float scale : {0.0f, 1.0f, 0.0173f}) {
          const int64_t rows = random.Range(0, 3) == 0 ? 18 : random.Range(1, 3);
          const int64_t stride = (columns + 31) / 32 * 32;
          const int64_t x_stride = columns + random.Range(0, 2) * 7;
          const std::vector<float> x = Values(random, rows * x_stride, kind);
          const std::vector<float> steps = Steps(random, stride, range[0], range[1]);
          QuantizeArguments q = {};
          q.steps = random.Range(0, 2) == 0 ? nullptr : steps.data();
          q.x = x.data();
          q.x_stride = x_stride;
          q.rows = rows;
          q.columns = columns;
          q.static_scale = scale;
          q.low = range[0];
          q.high = range[1];
          q.stride = stride;
          const bool pairs = q.low < 0 && random.Range(0, 3) != 0;
          Outputs expected(rows, stride);
          expected.Run(quantize_reference, q, pairs);
          for (size_t i = 0; i < kernels.size; ++i) {
            if (!tallies[i].supported) continue;
            Outputs got(rows, stride);
            got.Run(kernels.rows[i].run, q, pairs);
            char where[100];
            std::snprintf(where, sizeof where, "kind %d columns %d scale %g range %d..%d", kind,
                          static_cast<int>(columns), scale, q.low, q.high);
            tallies[i].Check(got.Equals(expected), where);
          }
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
