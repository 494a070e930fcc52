// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernels/l1_norm/test_rows.h"

namespace edgefold::selftest {
namespace {

enum class Rows { kNormal, kOutlier, kConstant, kZero, kTiny, kHalves, kOdd };

float Value(Random& random, Rows kind) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const float odd[] = {0.0f, -0.0f, kInfinity, -kInfinity, kNaN, 1e-38f, 3e38f, -3e38f};
  switch (kind) {
    case Rows::kOutlier:
      return random.Uniform() * (random.Next() % 16 == 0 ? 1000.0f : 1.0f);
    case Rows::kConstant:
      return 2.5f;
    case Rows::kZero:
      return 0.0f;
    case Rows::kTiny:
      return random.Uniform() * 2e-30f;
    case Rows::kHalves:  // times 16383 / 16383 when 16383 is among them: exact halves
      return random.Next() % 4 == 0 ? 16383.0f : static_cast<float>(random.Range(-2000, 2000)) / 2;
    case Rows::kOdd:
      return random.Next() % 4 == 0 ? odd[random.Next() % 8] : random.Uniform();
    default:
      return random.Uniform() * 3.0f;
  }
}

// One problem, and a run of a variant on it into guarded memory.
struct Problem {
  std::vector<float> x, gamma, beta;
  std::vector<int8_t> x_codes;
  std::vector<int16_t> steps;
  L1NormArguments n = {};

  Problem(Random& random, int64_t rows, int64_t columns, Rows kind, bool codes) {
    for (int64_t i = 0; i < columns; ++i) {
      gamma.push_back(random.Uniform() * 60.0f);
      beta.push_back(static_cast<float>(random.Range(-80, 80)) / 2);
      steps.push_back(static_cast<int16_t>(1 << random.Next() % 5));
    }
    for (int64_t i = 0; i < rows * columns; ++i) {
      x.push_back(Value(random, kind));
      const int any = random.Next() % 8 == 0 ? -128 : random.Range(-127, 127);
      x_codes.push_back(static_cast<int8_t>(kind == Rows::kConstant ? 77 : any));
    }
    n.x = codes ? nullptr : x.data();
    n.x_codes = codes ? x_codes.data() : nullptr;
    n.rows = rows;
    n.columns = columns;
    n.gamma = gamma.data();
    n.beta = beta.data();
  }

  void Run(L1NormKernel* kernel, Guarded<float>* y, Guarded<int8_t>* y_codes) const {
    Guarded<int16_t> scratch(n.columns);
    L1NormArguments call = n;
    call.scratch = scratch.data();
    call.y = n.high == 0.0f ? y->data() : nullptr;
    call.y_codes = n.high == 0.0f ? nullptr : y_codes->data();
    kernel(call);
    if (!scratch.Intact()) y_codes->data()[-1] = 0;  // found as a write out of bounds
  }
};

bool ConstantRowsGiveBeta(const Problem& p, Guarded<float>& y) {
  for (int64_t i = 0; i < p.n.rows * p.n.columns; ++i) {
    if (y.data()[i] != p.beta[i % p.n.columns]) return false;
  }
  return true;
}

void Compare(const Problem& p, Rows kind, const KernelTable<L1NormKernel>& kernels,
             L1NormKernel* reference, std::vector<Tally>* tallies) {
  const int64_t size = p.n.rows * p.n.columns;
  Guarded<float> y(size);
  Guarded<int8_t> codes(size);
  p.Run(reference, &y, &codes);
  char where[120];
  std::snprintf(where, sizeof where, "kind %d columns %lld codes %d centred %d high %g epsilon %g",
                static_cast<int>(kind), static_cast<long long>(p.n.columns), p.n.x == nullptr,
                p.n.centred, p.n.high, p.n.epsilon);
  const bool constant = (kind == Rows::kConstant || kind == Rows::kZero) && p.n.x != nullptr &&
                        p.n.centred && p.n.high == 0.0f;
  for (size_t k = 0; k < kernels.size; ++k) {
    if (!(*tallies)[k].supported) continue;
    Guarded<float> got(size);
    Guarded<int8_t> got_codes(size);
    p.Run(kernels.rows[k].run, &got, &got_codes);
    const bool equal = got.Equals(y) && got_codes.Equals(codes);
    (*tallies)[k].Check(equal && (!constant || ConstantRowsGiveBeta(p, got)), where);
  }
}

}  // namespace

std::vector<Tally> TestNorm(const KernelTable<L1NormKernel>& kernels, L1NormKernel* reference) {
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(11);
  for (int64_t columns : {1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 4096}) {
    for (int kind = 0; kind <= static_cast<int>(Rows::kOdd); ++kind) {
      for (int form = 0; form < 16; ++form) {
        const Rows rows = static_cast<Rows>(kind);
        Problem p(random, random.Range(1, 3), columns, rows, (form & 1) != 0);
        p.n.centred = (form & 2) != 0;
        p.n.epsilon = (form & 4) != 0 ? 0.5f : 0.0f;
        p.n.high = (form & 8) == 0 ? 0.0f : (form & 4) != 0 ? 127.0f : 7.0f;
        p.n.steps = p.n.high == 7.0f ? p.steps.data() : nullptr;
        Compare(p, rows, kernels, reference, &tallies);
      }
    }
  }
  return tallies;
}

std::vector<Tally> TestL1Norm() { return TestNorm(L1NormKernels(), l1_norm_reference); }

}  // namespace edgefold::selftest
