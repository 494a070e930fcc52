// SPDX-License-Identifier: Apache-2.0
// Codes of an activation without the activation: 32 cubic polynomials give activation(v) / y_scale
// with an error of at most a bound that is known, so the code is certain but where the quotient
// lies that close to a tie between two codes. There a kernel asks the formula, for a few vectors in
// a hundred.
#pragma once

#include "kernels/activation/activation.h"

namespace edgefold {

struct CodeCurve {
  static constexpr int kSegments = 32;

  bool usable;  // else the activation has no curve, or ties are near too often
  // x = clip(v, low, high) lies in segment round(x * segments) - first, and
  // activation(v) / y_scale = sum over j of table[j][segment] * x^j, or either is more than half a
  // code above the highest code.
  float low, high;
  float segments;
  float first;  // an integer
  float far;    // from the nearest code, where its tie with another is near; below a half
  float table[4][kSegments];
};

// For finite v and codes up to `highest`.
CodeCurve FitCurve(const Activation& activation, float y_scale, float highest);

}  // namespace edgefold
