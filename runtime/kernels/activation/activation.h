// SPDX-License-Identifier: Apache-2.0
// Activation functions of float rows.
//
//   y[m][n] = f(x[m][n])      kinds, and what alpha and beta are to them:
//
//   kClip         min(max(x, alpha), beta); Relu is 0 and infinity
//   kSigmoid      1 / (1 + exp(-x))
//   kHardSigmoid  min(max(alpha * x + beta, 0), 1)
//   kTanh         tanh(x)
//   kSwish        x * sigmoid(alpha * x); SiLU is 1, QuickGELU 1.702
//   kHardSwish    x * min(max(alpha * x + beta, 0), 1)
//   kGelu         x / 2 * (1 + erf(x / sqrt(2)))
//   kGeluTanh     x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
//   kLeakyRelu    alpha * x below 0, else x; |alpha| <= 1
//
// Against the exact function, |error| <= 2^-22 |y| for kTanh and, from x = -86 on, kSigmoid,
// 2^-22 |x| for kSwish and kGeluTanh, and 2^-21 |x| for kGelu; the others round each operation
// once. A NaN stays one.
// All in float32 in the fixed order of formulas.h, without fused multiply-add. Bit-equal but for
// which NaN it is.
#pragma once

#include <cstdint>
#include <limits>

#include "base/kernel.h"

namespace edgefold {

enum class ActivationKind : int32_t {
  kClip,
  kSigmoid,
  kHardSigmoid,
  kTanh,
  kSwish,
  kHardSwish,
  kGelu,
  kGeluTanh,
  kLeakyRelu
};
inline constexpr int kActivationKinds = 9;

struct Activation {
  ActivationKind kind;
  float alpha;
  float beta;
};

// Whether it gives every x back.
inline bool IsIdentity(const Activation& f) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return f.kind == ActivationKind::kClip && f.alpha == -kInfinity && f.beta == kInfinity;
}

struct ActivationArguments {
  Activation activation;
  const float* x;  // [rows][x_stride]
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  float* y;  // [rows][y_stride]; x itself, with the same stride, or overlaps nothing
  int64_t y_stride;
};

using ActivationKernel = void(const ActivationArguments& arguments);

#define EF_KERNEL(isa, symbol) ActivationKernel symbol;
#include "kernels/activation/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<ActivationKernel> ActivationKernels();

}  // namespace edgefold
