// SPDX-License-Identifier: Apache-2.0
// The formulas of every activation, written once over a compiler vector of any number of lanes, so
// that all instruction sets do the same operations in the same order: the reference has one lane.
// Everything here is private to the file that includes it, since files differ in their flags.
//
// The coefficients are least-maximum fits made for this file: exp(r) - 1 - r over r^2 on
// |r| <= ln(2) / 2 (3e-9 of exp), tanh(x) / x - 1 over x^2 on |x| <= 5 / 8 (5e-9 of tanh),
// erf(x / sqrt(2)) / x in x^2 on |x| <= 5.4 (2e-8 of erf), from where on erf is 1 in float32.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/activation/activation.h"

namespace edgefold {
namespace {

template <int kLanes>
struct Formulas {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

  static Floats Load(const float* x) {
    Floats value;
    __builtin_memcpy(&value, x, sizeof value);
    return value;
  }

  // Fewer than kLanes numbers, or none where `count` is not positive, and others behind them.
  static Floats LoadSome(const float* x, int64_t count, float others) {
    Floats value = All(others);
    if (count > 0) __builtin_memcpy(&value, x, static_cast<size_t>(count) * sizeof(float));
    return value;
  }

  static Floats All(float value) { return Floats{} + value; }
  // A NaN stays: comparisons with it are false.
  static Floats AtLeast(Floats x, float low) {
#if defined(__AVX512F__)
    // One instruction of the same meaning, where the compiler makes two.
    if constexpr (kLanes == 16) return (Floats)_mm512_max_ps((__m512)All(low), (__m512)x);
#endif
    return x < All(low) ? All(low) : x;
  }
  static Floats AtMost(Floats x, float high) {
#if defined(__AVX512F__)
    if constexpr (kLanes == 16) return (Floats)_mm512_min_ps((__m512)All(high), (__m512)x);
#endif
    return x > All(high) ? All(high) : x;
  }
  static Floats Clip(Floats x, float low, float high) { return AtMost(AtLeast(x, low), high); }
  static Floats Magnitude(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

  // coefficients[0] + x * (coefficients[1] + x * ...)
  template <int kCount>
  static Floats Polynomial(Floats x, const float (&coefficients)[kCount]) {
    Floats value = All(coefficients[kCount - 1]);
    for (int i = kCount - 2; i >= 0; --i) value = value * x + coefficients[i];
    return value;
  }

  // exp(x) for x <= 0; 0 below kLeastExponent, where 2^n leaves the normal numbers.
  static constexpr float kLeastExponent = -86.0f;
  static Floats Exp(Floats x) { return x < All(kLeastExponent) ? Floats{} : NormalExp(x); }
  // The same, and 0 of a NaN.
  static Floats ExpOrZero(Floats x) { return x >= All(kLeastExponent) ? NormalExp(x) : Floats{}; }
  static Floats NormalExp(Floats x) {
    constexpr float kLog2E = 0x1.715476p+0f;
    constexpr float kLn2High = 0x1.62e4p-1f;  // few enough bits that its multiples are exact
    constexpr float kLn2Low = 0x1.7f7d1cp-20f;
    // Adding it rounds to an integer n, and leaves the exponent field of 2^n in the low bits.
    constexpr float kToInteger = 0x1.8p23f + 127.0f;
    constexpr float kTail[] = {0.49999994f, 0.1666652f, 0.04166839f, 0.00836878f, 0.00138144654f};
    const Floats shifted = x * kLog2E + kToInteger;
    const Floats n = shifted - kToInteger;
    const Floats r = x - n * kLn2High - n * kLn2Low;
    const Floats fraction = Polynomial(r, kTail) * (r * r) + r + 1.0f;
    const Floats power = (Floats)((Ints)shifted << 23);
    return fraction * power;
  }

  static Floats Sigmoid(Floats x) {
    const Floats e = Exp(-Magnitude(x));
    return (x < Floats{} ? e : All(1.0f)) / (e + 1.0f);
  }

  static Floats Tanh(Floats x) {
    constexpr float kTail[] = {-0.3333328f, 0.133314416f, -0.053739715f, 0.020639092f,
                               -0.005704991f};
    const Floats square = x * x;
    const Floats near = Polynomial(square, kTail) * square * x + x;
    const Floats magnitude = Magnitude(x);
    const Floats e = Exp(magnitude * -2.0f);
    const Floats far = (1.0f - e) / (e + 1.0f);
    return magnitude < All(0.625f) ? near : x < Floats{} ? -far : far;
  }

  // erf(x / sqrt(2))
  static Floats ErfOfRoot2(Floats x) {
    constexpr float kAbove[] = {0.7978845f,     0.06605874f,    0.009257928f,
                                0.00032138990f, 1.26474370e-5f, 4.7182056e-8f};
    constexpr float kBelow[] = {1.0f,          0.24945882f,   0.028180094f,
                                0.0018386545f, 7.1172879e-5f, 1.2198246e-6f};
    const Floats z = Clip(x, -5.4f, 5.4f);
    const Floats square = z * z;
    return z * Polynomial(square, kAbove) / Polynomial(square, kBelow);
  }

  static Floats Gelu(Floats x) { return x * 0.5f * (ErfOfRoot2(x) + 1.0f); }

  // (1 + tanh(u)) / 2 = sigmoid(2 u)
  static Floats GeluTanh(Floats x) {
    constexpr float kLinear = 1.5957691f;   // 2 * sqrt(2 / pi)
    constexpr float kCubic = 0.071354814f;  // 0.044715 of it
    return x * Sigmoid(x * (x * x * kCubic + kLinear));
  }

  // Applies `f` to all elements; beyond a row's last whole vector the other lanes hold zeros.
  template <typename Function>
  static void ForEach(const ActivationArguments& a, const Function& f) {
    for (int64_t m = 0; m < a.rows; ++m) {
      const float* x = a.x + m * a.x_stride;
      float* y = a.y + m * a.y_stride;
      int64_t n = 0;
      for (; n + kLanes <= a.columns; n += kLanes) {
        Floats value;
        __builtin_memcpy(&value, x + n, sizeof value);
        value = f(value);
        __builtin_memcpy(y + n, &value, sizeof value);
      }
      if (n == a.columns) continue;
      const size_t bytes = static_cast<size_t>(a.columns - n) * sizeof(float);
      Floats value = {};
      __builtin_memcpy(&value, x + n, bytes);
      value = f(value);
      __builtin_memcpy(y + n, &value, bytes);
    }
  }
};

// Calls use(f), where f applies the activation to a vector.
template <int kLanes, typename Use>
inline void WithFunction(const Activation& activation, const Use& use) {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  const float alpha = activation.alpha;
  const float beta = activation.beta;
  switch (activation.kind) {
    case ActivationKind::kClip:
      return use([=](Floats x) { return F::Clip(x, alpha, beta); });
    case ActivationKind::kSigmoid:
      return use([](Floats x) { return F::Sigmoid(x); });
    case ActivationKind::kHardSigmoid:
      return use([=](Floats x) { return F::Clip(x * alpha + beta, 0.0f, 1.0f); });
    case ActivationKind::kTanh:
      return use([](Floats x) { return F::Tanh(x); });
    case ActivationKind::kSwish:
      return use([=](Floats x) { return x * F::Sigmoid(x * alpha); });
    case ActivationKind::kHardSwish:
      return use([=](Floats x) { return x * F::Clip(x * alpha + beta, 0.0f, 1.0f); });
    case ActivationKind::kGelu:
      return use([](Floats x) { return F::Gelu(x); });
    case ActivationKind::kGeluTanh:
      return use([](Floats x) { return F::GeluTanh(x); });
    case ActivationKind::kLeakyRelu:
      return use([=](Floats x) { return x < Floats{} ? x * alpha : x; });
  }
}

template <int kLanes>
inline void Activate(const ActivationArguments& a) {
  WithFunction<kLanes>(a.activation, [&](const auto& f) { Formulas<kLanes>::ForEach(a, f); });
}

}  // namespace
}  // namespace edgefold
