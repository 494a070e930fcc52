// SPDX-License-Identifier: Apache-2.0
// Errors are counted in codes and hold the roundings of the formula as well as those of the
// estimate: where both end on different sides of a tie, the estimate has to say so.
#include "kernels/requantize/estimate.h"

#include <algorithm>
#include <cmath>

#include "kernels/activation/formulas.h"

namespace edgefold {
namespace {

constexpr double kUnit = 0x1p-24;    // what one rounding takes from a number, relative to it
constexpr double kOne = 0x1p16;      // one code in fixed point
constexpr double kConversion = 0.5;  // error of an integer, in fixed point

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
  constexpr double kMost = 1.01 * kUnit * kOne;
  e->error = static_cast<float>(kMost * error + kConversion);
  e->error_of_added = static_cast<float>(kMost * error_of_added / codes.y_scale);
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

// A ramp so steep that it is a step, from the slope below 0 to that above; on it e is next to 0.
// The formula has a product more than a line has, and so has the estimate.
void Step(const Activation& a, const Codes& codes, CodeEstimate* e) {
  const double above = kOne / codes.y_scale;
  if (!(above < 0x1p48)) return;
  e->factor = 1.0f;
  e->most = static_cast<float>(above);
  e->least = static_cast<float>(above * a.alpha);
  e->slope = static_cast<float>(std::max(1.0, above * above) * 0x1p20);
  Take(EstimateForm::kRamp, 12 * (codes.highest + 2), 8, codes, 9, e);
}

// Where the polynomials reach from and to, and what is known of the activation there.
struct Limits {
  double low, high;
  double fourth, fifth;  // derivatives are at most this
  double formula;        // error of formulas.h
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
    return {low, high, 1.61, 2.87, error * std::max(-low, high)};
  }
  if (a.kind != ActivationKind::kSwish || !(a.alpha > 0.125f && a.alpha < 8.0f)) return {};
  // f(x) = g(alpha x) / alpha, where g(t) = t / (1 + exp(-t)), t - 0.279 <= g(t), |g''''| <= 1/2.
  const double alpha = a.alpha;
  const auto rest = [](double t) { return t * std::exp(-t); };  // >= |g(-t)|
  const double low = -TailFrom(rest, 0.25 * codes.y_scale * alpha) / alpha;
  const double high = above + 0.28 / alpha;
  const double fourth = 0.5 * alpha * alpha * alpha;
  return {low, high, fourth, 1.32 * alpha * fourth, 0x1p-22 * std::max(-low, high)};
}

// Polynomials of one degree, and how many segments of t they have.
struct Cubic {
  static constexpr EstimateForm kForm = EstimateForm::kCubics;
  static constexpr int kSegments = 32, kNodes = 4;
  // Chebyshev's nodes, in widths of a segment from its middle.
  static constexpr double kAt[] = {-0.46193976625564337, -0.19134171618254489, 0.19134171618254489,
                                   0.46193976625564337};

  // max |f''''| (h / 2)^4 / (4! 2^3) for segments of width h.
  static double Error(const Limits& l, double h) { return l.fourth * std::pow(h / 2, 4) / 192; }

  // From values at the nodes: even and odd parts, each through two of them.
  static void Fit(const double (&y)[kNodes], double (&c)[kNodes]) {
    constexpr double a = kAt[3], b = kAt[2];
    const double even_a = (y[3] + y[0]) / 2, even_b = (y[2] + y[1]) / 2;
    const double odd_a = (y[3] - y[0]) / (2 * a), odd_b = (y[2] - y[1]) / (2 * b);
    c[2] = (even_a - even_b) / (a * a - b * b);
    c[0] = even_b - c[2] * b * b;
    c[3] = (odd_a - odd_b) / (a * a - b * b);
    c[1] = odd_b - c[3] * b * b;
  }
};

struct Quartic {
  static constexpr EstimateForm kForm = EstimateForm::kQuartics;
  static constexpr int kSegments = 16, kNodes = 5;
  static constexpr double kAt[] = {-0.47552825814757677, -0.29389262614623656, 0.0,
                                   0.29389262614623656, 0.47552825814757677};

  // max |f'''''| (h / 2)^5 / (5! 2^4) for segments of width h.
  static double Error(const Limits& l, double h) { return l.fifth * std::pow(h / 2, 5) / 1920; }

  static void Fit(const double (&y)[kNodes], double (&c)[kNodes]) {
    constexpr double a = kAt[4], b = kAt[3];
    const double even_a = ((y[4] + y[0]) / 2 - y[2]) / (a * a);
    const double even_b = ((y[3] + y[1]) / 2 - y[2]) / (b * b);
    const double odd_a = (y[4] - y[0]) / (2 * a), odd_b = (y[3] - y[1]) / (2 * b);
    c[0] = y[2];
    c[4] = (even_a - even_b) / (a * a - b * b);
    c[2] = even_b - c[4] * b * b;
    c[3] = (odd_a - odd_b) / (a * a - b * b);
    c[1] = odd_b - c[3] * b * b;
  }
};

// The activation at the nodes of every segment; the middle of all is at `middle`.
template <typename Polynomial>
void Evaluate(const Activation& activation, double middle, double width,
              float (&values)[Polynomial::kNodes][Polynomial::kSegments]) {
  constexpr int kLanes = 4;
  using F = Formulas<kLanes>;
  for (int n = 0; n < Polynomial::kNodes; ++n) {
    float* row = values[n];
    for (int i = 0; i < Polynomial::kSegments; ++i) {
      const double t = i + 0.5 - Polynomial::kSegments / 2 + Polynomial::kAt[n];
      row[i] = static_cast<float>(middle + t * width);
    }
    WithFunction<kLanes>(activation, [&](const auto& f) {
      for (int i = 0; i < Polynomial::kSegments; i += kLanes) {
        const typename F::Floats y = f(F::Load(row + i));
        __builtin_memcpy(row + i, &y, sizeof y);
      }
    });
  }
}

// Coefficients of the polynomials in t, times `scale`. Returns the largest sum |c_j t^j|.
template <typename Polynomial>
double Interpolate(const float (&values)[Polynomial::kNodes][Polynomial::kSegments], double scale,
                   float (&table)[5][CodeEstimate::kSegments]) {
  constexpr int kNodes = Polynomial::kNodes, kSegments = Polynomial::kSegments;
  double most = 0;
  for (int i = 0; i < kSegments; ++i) {
    const double middle = i + 0.5 - kSegments / 2;
    double y[kNodes], c[kNodes];
    for (int n = 0; n < kNodes; ++n) y[n] = values[n][i] * scale;
    Polynomial::Fit(y, c);
    // From powers of t - middle to powers of t.
    for (int j = 0; j < kNodes; ++j) {
      for (int k = kNodes - 2; k >= j; --k) c[k] -= middle * c[k + 1];
    }
    double sum = 0;
    for (int j = kNodes - 1; j >= 0; --j) {
      sum = sum * (std::abs(middle) + 0.5) + std::abs(c[j]);
      table[j][(i + kSegments / 2) % kSegments] = static_cast<float>(c[j]);
    }
    most = std::max(most, sum);
  }
  return most;
}

// What adds up to the error:
// - interpolation;
// - the formula's own error (activation.h), at the nodes and where the reference evaluates it: not
//   quite three times, since Lebesgue's constants of four and five such nodes are 1.85 and 1.99;
// - rounding of the nodes, of v in the formula and of t here, where the slope is below 1.2;
// - rounding of the coefficients and of the sums of Horner's scheme: kNodes times sum |c_j t^j|.
template <typename Polynomial>
void Polynomials(const Activation& activation, const Codes& codes, CodeEstimate* e) {
  const Limits l = LimitsOf(activation, codes);
  if (!(l.low < l.high)) return;
  const double width = (l.high - l.low) / Polynomial::kSegments, middle = (l.high + l.low) / 2;
  float values[Polynomial::kNodes][Polynomial::kSegments];
  Evaluate<Polynomial>(activation, middle, width, values);
  const double sum = Interpolate<Polynomial>(values, kOne / codes.y_scale, e->table) / kOne;
  const double reach = std::max(-l.low, l.high) / codes.y_scale;
  const double known = (Polynomial::Error(l, width) + 3 * l.formula) / codes.y_scale;
  e->factor = static_cast<float>(1.0 / width);
  e->offset = static_cast<float>(-middle / width);
  Take(Polynomial::kForm, known / kUnit + 10 * reach + Polynomial::kNodes * sum, 10, codes, 6, e);
}

// As the formula has it, which rounds the quotient to a float first.
int32_t CodeOf(float value, float y_scale, int32_t low, int32_t high) {
  const float quotient = value / y_scale;
  const float least = static_cast<float>(low), most = static_cast<float>(high);
  return static_cast<int32_t>(std::nearbyint(std::min(most, std::max(least, quotient))));
}

}  // namespace

CodeEstimate EstimateCodes(const Activation& activation, float y_scale, int32_t low, int32_t high,
                           EstimateForm polynomials) {
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
  } else if (activation.kind == ActivationKind::kLeakyRelu) {
    Step(activation, codes, &estimate);
  } else if (polynomials == EstimateForm::kCubics) {
    Polynomials<Cubic>(activation, codes, &estimate);
  } else {
    Polynomials<Quartic>(activation, codes, &estimate);
  }
  return estimate;
}

}  // namespace edgefold
