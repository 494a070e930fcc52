// SPDX-License-Identifier: Apache-2.0
// Codes of an activation in fewer operations than the activation takes, with an error that is
// known: a code is certain but where the estimate lies that close to a tie between two codes. There
// a kernel asks the formula, for a few vectors in a hundred.
//
//   v = p + b (+ r)        the sum of a convolution, bias and residual, where each sum and product
//                          may be rounded or not
//   t = v * factor + offset
//   e = 2^16 * activation(v) / y_scale, from t as `form` says, with an error of at most
//       error + error_of_added * (|b| + |r|), also after conversion to an integer
//
// Where e + 2^15 is further than that from every multiple of 2^16, its high half, clipped to
// [low, high], is the code. margin.h has the test.
#pragma once

#include <cstdint>

#include "kernels/activation/activation.h"

namespace edgefold {

enum class EstimateForm {
  kNone,  // no estimate is known, or it would be near a tie too often
  kLine,  // e = t, for kClip
  kRamp,  // e = t * min(max(t * slope + middle, least), most), for kHardSwish and kLeakyRelu
  // For kSwish, kGelu and kGeluTanh, of t that is clipped to +-Reach(segments):
  kCubics,   // e = sum over j < 4 of table[j][floor(t) mod 32] * t^j
  kQuartics  // e = sum over j < 5 of table[j][floor(t) mod 16] * t^j
};

struct CodeEstimate {
  static constexpr int kSegments = 32;  // of cubics
  static constexpr float Reach(int segments) { return 0.5f * segments - 0.0001f; }

  EstimateForm form;
  float factor, offset;
  float error, error_of_added;
  int32_t low, high;
  float slope, middle, least, most;
  alignas(64) float table[5][kSegments];
};

// For codes in [low, high], low >= -high; with the polynomials that are asked for, where the
// activation takes some.
CodeEstimate EstimateCodes(const Activation& activation, float y_scale, int32_t low, int32_t high,
                           EstimateForm polynomials);

}  // namespace edgefold
