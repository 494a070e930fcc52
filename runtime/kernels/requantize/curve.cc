// SPDX-License-Identifier: Apache-2.0
// What adds up to the bound of the error, in codes:
// - interpolation at the Chebyshev nodes of a segment of width h: max |f''''| (h / 2)^4 / 192;
// - the formula's own error (activation.h), at the nodes and where the reference evaluates it:
// three
//   times, since Lebesgue's constant of four such nodes is 1.85;
// - rounding of the nodes and of v, where the slope is below 1.2, and what it takes from v that a
//   sum is rounded once or twice;
// - rounding of the coefficients and in Horner's scheme: below 2^-21 times sum |c_j x^j|.
#include "kernels/requantize/curve.h"

#include <algorithm>
#include <cmath>

#include "kernels/activation/formulas.h"

namespace edgefold {
namespace {

constexpr double kMostError = 1.0 / 64;                                       // in codes
constexpr double kOuter = 0.46193976625564337, kInner = 0.19134171618254489;  // nodes, in widths

// Where the polynomials reach from and to, and what the errors are, of the activation's values.
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

// Below `low`, |f| falls to zero and is at most a quarter of a code.
Limits LimitsOf(const Activation& a, double y_scale, double highest) {
  constexpr double kUlp = 0x1p-21;
  if (a.kind == ActivationKind::kGelu || a.kind == ActivationKind::kGeluTanh) {
    const auto density = [](double t) { return 0.4 * std::exp(-t * t / 2); };  // >= |f(-t)|
    const double low = -TailFrom(density, 0.25 * y_scale);
    const double high = highest + y_scale + 0.18;  // x - 0.171 <= f(x)
    return {low, high, 1.61, kUlp * std::max(-low, high)};
  }
  if (a.kind != ActivationKind::kSwish || !(a.alpha > 0.125f && a.alpha < 8.0f)) return {};
  // f(x) = g(alpha x) / alpha, where g(t) = t / (1 + exp(-t)), t - 0.279 <= g(t), |g''''| <= 1/2.
  const double alpha = a.alpha;
  const auto rest = [](double t) { return t * std::exp(-t); };  // >= |g(-t)|
  const double low = -TailFrom(rest, 0.25 * y_scale * alpha) / alpha;
  const double high = highest + y_scale + 0.28 / alpha;
  return {low, high, 0.5 * alpha * alpha * alpha, kUlp * std::max(0.28 / alpha, high)};
}

// Values of the activation at the four nodes of every segment, of which the first lies around
// first * width.
void Evaluate(const Activation& activation, double first, double width,
              float (&values)[4][CodeCurve::kSegments]) {
  constexpr double kNodes[] = {-kOuter, -kInner, kInner, kOuter};
  constexpr int kLanes = 4;
  using F = Formulas<kLanes>;
  for (int n = 0; n < 4; ++n) {
    float* row = values[n];
    for (int i = 0; i < CodeCurve::kSegments; ++i) {
      row[i] = static_cast<float>((first + i + kNodes[n]) * width);
    }
    WithFunction<kLanes>(activation, [&](const auto& f) {
      for (int i = 0; i < CodeCurve::kSegments; i += kLanes) {
        const typename F::Floats y = f(F::Load(row + i));
        __builtin_memcpy(row + i, &y, sizeof y);
      }
    });
  }
}

// Coefficients of the polynomials in x, times `scale`. Returns the largest sum |c_j x^j|.
double Interpolate(const float (&values)[4][CodeCurve::kSegments], double first, double width,
                   double scale, float (&table)[4][CodeCurve::kSegments]) {
  const double outer = kOuter * width, inner = kInner * width;
  const double apart = scale / (outer * outer - inner * inner);
  double most = 0;
  for (int i = 1; i < CodeCurve::kSegments - 1; ++i) {
    const double y[] = {values[0][i], values[1][i], values[2][i], values[3][i]};
    // Even and odd parts around the middle m.
    const double even_outer = (y[3] + y[0]) / 2, even_inner = (y[2] + y[1]) / 2;
    const double odd_outer = (y[3] - y[0]) / (2 * outer), odd_inner = (y[2] - y[1]) / (2 * inner);
    const double c2 = (even_outer - even_inner) * apart;
    const double c0 = even_inner * scale - c2 * inner * inner;
    const double c3 = (odd_outer - odd_inner) * apart;
    const double c1 = odd_inner * scale - c3 * inner * inner;
    const double m = (first + i) * width;
    const double c[] = {c0 - m * (c1 - m * (c2 - m * c3)), c1 - m * (2 * c2 - 3 * m * c3),
                        c2 - 3 * m * c3, c3};
    const double x = std::abs(m) + width;
    most = std::max(
        most, std::abs(c[0]) + x * (std::abs(c[1]) + x * (std::abs(c[2]) + x * std::abs(c[3]))));
    for (int j = 0; j < 4; ++j) table[j][i] = static_cast<float>(c[j]);
  }
  return most;
}

}  // namespace

CodeCurve FitCurve(const Activation& activation, float y_scale, float highest, float most_added) {
  CodeCurve curve = {};
  const double scale = y_scale;
  const Limits l = LimitsOf(activation, scale, scale * highest);
  if (!(l.low < l.high)) return curve;
  // Segments lie around multiples of their width.
  const double width = (l.high - l.low) / (CodeCurve::kSegments - 3.1);
  const double first = std::floor(l.low / width + 0.499) - 1;
  float values[4][CodeCurve::kSegments];
  Evaluate(activation, first, width, values);
  const double sum = Interpolate(values, first, width, 1.0 / scale, curve.table);
  curve.table[0][CodeCurve::kSegments - 1] = highest + 1;
  const double reach = std::max(-l.low, l.high);
  const double of_values = l.fourth * std::pow(width / 2, 4) / 192 + 3 * l.formula +
                           0x1p-22 * reach + 0x1p-23 * (reach + 2 * most_added);
  const double error = 1.05 * (of_values / scale + 0x1p-21 * sum);
  curve.usable = error < kMostError;
  curve.segments = static_cast<float>(1.0 / width);
  curve.first = static_cast<float>(first);
  curve.far = static_cast<float>(0.5 - error);
  return curve;
}

}  // namespace edgefold
