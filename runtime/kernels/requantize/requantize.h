// SPDX-License-Identifier: Apache-2.0
// What follows the sums of a convolution, up to the codes that the next one reads.
//
//   v = float(sums[i][n]) * scales[n] + bias[n]
//   v = v + float(residual[i][n]) * residual_scale      where it is added before the activation
//   v = activation(v)                                   of kernels/activation
//   v = v + float(residual[i][n]) * residual_scale      where it is added after it
//   y[i][n] = min(max(round_half_even(v / y_scale), low), high)       v where y is float
//
// in float32, each operation rounded once (no fused multiply-add), for pixels i and channels n.
// max(v, low) is `low` for a NaN, here and in the activation kClip. Bit-equal. Nothing overlaps; no
// pointer needs alignment.
#pragma once

#include <cstdint>

#include "base/kernel.h"
#include "kernels/activation/activation.h"
#include "kernels/requantize/estimate.h"

namespace edgefold {

struct CodeRange {
  int32_t low;   // -127..0; codes are int8 when negative, else uint8
  int32_t high;  // 1..127 or 1..255; 0: float

  bool is_float() const { return high == 0; }
  bool is_unsigned() const { return low >= 0; }
};

enum class Residual { kNone, kBeforeActivation, kAfterActivation };

struct RequantizeArguments {
  const int32_t* sums;  // [pixels][stride]
  int64_t stride;       // >= channels rounded up to 16: a kernel may read as far as that
  int64_t pixels;
  int64_t channels;
  const float* scales;  // [channels rounded up to 16]
  const float* bias;    // the same
  Activation activation;
  // Null, or EstimateCodes(activation, y_scale, range.low, range.high, any) where results are codes
  // and the place is not kAfterActivation: kernels give the same codes with it as without.
  const CodeEstimate* estimate;
  Residual place;
  const uint8_t* residual;  // [pixels][residual_stride] codes; `channels` of a pixel are read
  int64_t residual_stride;
  bool residual_is_unsigned;
  float residual_scale;
  CodeRange range;
  float y_scale;     // 2^-64..2^64
  void* y;           // [pixels][y_stride] bytes, or floats; `channels` of a pixel are written
  int64_t y_stride;  // in elements
};

using RequantizeKernel = void(const RequantizeArguments& arguments);

#define EF_KERNEL(isa, symbol) RequantizeKernel symbol;
#include "kernels/requantize/kernels.inc"
#undef EF_KERNEL

// All variants, fastest first.
KernelTable<RequantizeKernel> RequantizeKernels();

// The polynomials that the variants of an instruction set are fast with.
inline EstimateForm PolynomialsOf(Isa isa) {
  return isa == Isa::kVnni ? EstimateForm::kCubics : EstimateForm::kQuartics;
}

}  // namespace edgefold
