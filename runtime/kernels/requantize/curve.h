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
  // v lies in segment clip(round(v * segments) - first, 0, 31), and activation(v) / y_scale = sum
  // over j of table[j][segment] * v^j; or, in the first and the last segment, which are constant,
  // both round to code 0 or are more than half a code above the highest code.
  float segments;
  float first;  // an integer
  float far;    // from the nearest code, where its tie with another is near; below a half
  alignas(64) float table[4][kSegments];
};

// For codes up to `highest` of v = p + b (+ r) with finite p and |b| + |r| <= most_added, where
// each sum and product may be rounded or not.
CodeCurve FitCurve(const Activation& activation, float y_scale, float highest, float most_added);

}  // namespace edgefold
