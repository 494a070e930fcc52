// SPDX-License-Identifier: Apache-2.0
// One element at a time: all of the reference, and the last few of a row in the vector variants.
#pragma once

#include <cmath>

#include "kernels/l1_norm/l1_norm.h"

namespace edgefold {
namespace {

inline float LargerMagnitude(float x, float most) {
  const float magnitude = std::fabs(x);
  return magnitude > most ? magnitude : most;
}

inline int16_t Level(float scaled) {
  return std::isnan(scaled) ? int16_t{0} : static_cast<int16_t>(std::nearbyintf(scaled));
}

// t * factor of row m at column i.
inline int16_t Level(const L1NormArguments& n, int64_t m, int64_t i, float factor) {
  const int64_t at = m * n.columns + i;
  if (n.x == nullptr) return static_cast<int16_t>(n.x_codes[at] * kL1NormByteFactor);
  return Level(n.x[at] * factor);
}

inline float Factor(float absmax) { return absmax > 1e-30f ? kL1NormLevels / absmax : 0.0f; }

inline int32_t Mean(const L1NormArguments& n, int32_t sum) {
  if (!n.centred) return 0;
  const float mean = static_cast<float>(sum) / static_cast<float>(n.columns);
  return static_cast<int32_t>(std::nearbyintf(mean));
}

inline float Scale(const L1NormArguments& n, int32_t deviation, float factor) {
  const float columns = static_cast<float>(n.columns);
  const float divisor = std::fmax(static_cast<float>(deviation), columns * (n.epsilon * factor));
  return divisor > 0.0f ? columns / divisor : 0.0f;
}

inline void Store(const L1NormArguments& n, int64_t m, int64_t i, int32_t difference, float scale) {
  const float y = static_cast<float>(difference) * (scale * n.gamma[i]) + n.beta[i];
  const int64_t at = m * n.columns + i;
  if (n.y != nullptr) {
    n.y[at] = y;
    return;
  }
  const float code = std::nearbyintf(std::fmin(std::fmax(y, -n.high), n.high));
  const int32_t step = n.steps == nullptr ? 1 : n.steps[i];
  n.y_codes[at] = static_cast<int8_t>(static_cast<int32_t>(code) * step);
}

}  // namespace
}  // namespace edgefold
