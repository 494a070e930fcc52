// SPDX-License-Identifier: Apache-2.0
// Errors are counted in codes and hold the roundings of the formula as well as those of the
// estimate: where both end on different sides of a tie, the estimate has to say so.
#include "kernels/requantize/estimate.h"

#include <algorithm>
#include <cmath>

#include "kernels/activation/formulas.h"

namespace edgefold {
namespace {

constexpr double kUnit = 0x1p-24;  // what one rounding takes from a number, relative to it
constexpr double kOne = 0x1p16;    // one code in fixed point
constexpr int kSegments = CodeEstimate::kSegments;

struct Codes {
  double y_scale;
  double highest;  // and lowest: nothing beyond it is a code
};

// Takes the estimate if fewer than 2^-`bits` of all codes are within its error of a tie. Errors are
// in roundings of a code.
void Take(EstimateForm form, double error, double error_of_added, const Codes& codes, int bits,
          CodeEstimate* e) {
  if (!(2 * kUnit * error < std::ldexp(1.0, -bits))) return;
  e->form = form;
  e->error = static_cast<float>(1.01 * kUnit * error);
  e->error_of_added = static_cast<float>(1.01 * kUnit * error_of_added / codes.y_scale);
}

// Of |codes| and of what is added: product, two sums and quotient of the formula; here factor, two
// products with it, a constant and two sums.
void Line(const Codes& codes, CodeEstimate* e) {
  e->factor = static_cast<float>(kOne / codes.y_scale);
  Take(EstimateForm::kLine, 8 * (codes.highest + 2), 8, codes, 9, e);
}

// Above the ramp the activation is a line. On it the slope is at most 2 and |v| at most `v`.
void Ramp(const Activation& a, const Codes& codes, CodeEstimate* e) {
  const double alpha = a.alpha, beta = a.beta;
  if (!(alpha > 0x1p-10 && beta >= 0.0 && beta <= 1.0)) return;
  const double v = std::max(beta, 1.0 - beta) / alpha / codes.y_scale;
  e->factor = 1.0f;
  e->most = static_cast<float>(kOne / codes.y_scale);
  e->slope = static_cast<float>(kOne / codes.y_scale * alpha);
  e->middle = static_cast<float>(kOne / codes.y_scale * beta);
  Take(EstimateForm::kRamp, std::max(8 * codes.highest, 22 * v) + 16, 8, codes, 9, e);
}

// Where the polynomials reach from and to, and what is known of the activation there.
struct Limits {
  double low, high;
  double fourth;   // |f''''| is at most this
  double formula;  // error of formulas.h
};

// The least t >= 2 of a few where bound(t) <= most; bound decreases.
template <typename Bound>
double TailFrom(const Bound& bound, double most) {
  double t = 2.0;
  while (bound(t) > most && t < 32.0) t += 0.5;
  return t;
}

// Below `low`, |f| falls to zero and is at most a quarter of a code; at `high` it is more than half
// a code above the highest code.
Limits LimitsOf(const Activation& a, const Codes& codes) {
  const double above = (codes.highest + 1) * codes.y_scale;
  if (a.kind == ActivationKind::kGelu || a.kind == ActivationKind::kGeluTanh) {
    const auto density = [](double t) { return 0.4 * std::exp(-t * t / 2); };  // >= |f(-t)|
    const double low = -TailFrom(density, 0.25 * codes.y_scale);
    const double high = above + 0.18;  // x - 0.171 <= f(x)
    const double error = a.kind == ActivationKind::kGelu ? 0x1p-21 : 0x1p-22;
    return {low, high, 1.61, error * std::max(-low, high)};
  }
  if (a.kind != ActivationKind::kSwish || !(a.alpha > 0.125f && a.alpha < 8.0f)) return {};
  // f(x) = g(alpha x) / alpha, where g(t) = t / (1 + exp(-t)), t - 0.279 <= g(t), |g''''| <= 1/2.
  const double alpha = a.alpha;
  const auto rest = [](double t) { return t * std::exp(-t); };  // >= |g(-t)|
  const double low = -TailFrom(rest, 0.25 * codes.y_scale * alpha) / alpha;
  const double high = above + 0.28 / alpha;
  return {low, high, 0.5 * alpha * alpha * alpha, 0x1p-22 * std::max(-low, high)};
}

constexpr double kOuter = 0.46193976625564337, kInner = 0.19134171618254489;  // Chebyshev's nodes

// The activation at the four nodes of every segment: of t from i - 16 to i - 15.
void Evaluate(const Activation& activation, double middle, double width,
              float (&values)[4][kSegments]) {
  constexpr double kNodes[] = {-kOuter, -kInner, kInner, kOuter};
  constexpr int kLanes = 4;
  using F = Formulas<kLanes>;
  for (int n = 0; n < 4; ++n) {
    float* row = values[n];
    for (int i = 0; i < kSegments; ++i) {
      row[i] = static_cast<float>(middle + (i - 15.5 + kNodes[n]) * width);
    }
    WithFunction<kLanes>(activation, [&](const auto& f) {
      for (int i = 0; i < kSegments; i += kLanes) {
        const typename F::Floats y = f(F::Load(row + i));
        __builtin_memcpy(row + i, &y, sizeof y);
      }
    });
  }
}

// Coefficients of the polynomials in t, times `scale`. Returns the largest sum |c_j t^j|.
double Interpolate(const float (&values)[4][kSegments], double scale,
                   float (&table)[4][kSegments]) {
  const double apart = scale / (kOuter * kOuter - kInner * kInner);
  double most = 0;
  for (int i = 0; i < kSegments; ++i) {
    const double y[] = {values[0][i], values[1][i], values[2][i], values[3][i]};
    // Even and odd parts around the middle m.
    const double even_outer = (y[3] + y[0]) / 2, even_inner = (y[2] + y[1]) / 2;
    const double odd_outer = (y[3] - y[0]) / (2 * kOuter), odd_inner = (y[2] - y[1]) / (2 * kInner);
    const double c2 = (even_outer - even_inner) * apart;
    const double c0 = even_inner * scale - c2 * kInner * kInner;
    const double c3 = (odd_outer - odd_inner) * apart;
    const double c1 = odd_inner * scale - c3 * kInner * kInner;
    const double m = i - 15.5;
    const double c[] = {c0 - m * (c1 - m * (c2 - m * c3)), c1 - m * (2 * c2 - 3 * m * c3),
                        c2 - 3 * m * c3, c3};
    const double t = std::abs(m) + 0.5;
    most = std::max(
        most, std::abs(c[0]) + t * (std::abs(c[1]) + t * (std::abs(c[2]) + t * std::abs(c[3]))));
    for (int j = 0; j < 4; ++j) table[j][(i + 16) % kSegments] = static_cast<float>(c[j]);
  }
  return most;
}

// What adds up to the error:
// - interpolation at Chebyshev's nodes of a segment of width h: max |f''''| (h / 2)^4 / 192;
// - the formula's own error (activation.h), at the nodes and where the reference evaluates it:
//   three times, since Lebesgue's constant of four such nodes is 1.85;
// - rounding of the nodes, of v in the formula and of t here, where the slope is below 1.2;
// - rounding of the coefficients and of three sums: four times sum |c_j t^j|.
void Cubics(const Activation& activation, const Codes& codes, CodeEstimate* e) {
  const Limits l = LimitsOf(activation, codes);
  if (!(l.low < l.high)) return;
  const double width = (l.high - l.low) / kSegments, middle = (l.high + l.low) / 2;
  float values[4][kSegments];
  Evaluate(activation, middle, width, values);
  const double sum = Interpolate(values, kOne / codes.y_scale, e->table) / kOne;
  const double reach = std::max(-l.low, l.high) / codes.y_scale;
  const double known = (l.fourth * std::pow(width / 2, 4) / 192 + 3 * l.formula) / codes.y_scale;
  e->factor = static_cast<float>(1.0 / width);
  e->offset = static_cast<float>(-middle / width);
  Take(EstimateForm::kCubics, known / kUnit + 10 * reach + 4 * sum, 10, codes, 6, e);
}

// As the formula has it, which rounds the quotient to a float first.
int32_t CodeOf(float value, float y_scale, int32_t low, int32_t high) {
  const float quotient = value / y_scale;
  const float least = static_cast<float>(low), most = static_cast<float>(high);
  return static_cast<int32_t>(std::nearbyint(std::min(most, std::max(least, quotient))));
}

}  // namespace

CodeEstimate EstimateCodes(const Activation& activation, float y_scale, int32_t low, int32_t high) {
  CodeEstimate estimate = {};
  estimate.low = low;
  estimate.high = high;
  const Codes codes = {y_scale, static_cast<double>(high)};
  if (activation.kind == ActivationKind::kClip) {
    estimate.low = CodeOf(activation.alpha, y_scale, low, high);
    estimate.high = CodeOf(activation.beta, y_scale, low, high);
    Line(codes, &estimate);
  } else if (activation.kind == ActivationKind::kHardSwish) {
    Ramp(activation, codes, &estimate);
  } else {
    Cubics(activation, codes, &estimate);
  }
  return estimate;
}

}  // namespace edgefold
