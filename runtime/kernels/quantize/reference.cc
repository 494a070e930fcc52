// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/quantize/quantize.h"

namespace edgefold {
namespace {

float Step(const QuantizeArguments& q, int64_t k) { return q.steps == nullptr ? 1.0f : q.steps[k]; }

float AbsMax(const QuantizeArguments& q, const float* x) {
  float absmax = 0.0f;
  for (int64_t k = 0; k < q.columns; ++k) {
    const float magnitude = std::fabs(x[k]) / Step(q, k);
    if (magnitude > absmax) absmax = magnitude;
  }
  return absmax;
}

int32_t Code(float value, int32_t low, int32_t high) {
  if (!(value > static_cast<float>(low))) return low;  // NaN too
  if (value > static_cast<float>(high)) return high;
  return static_cast<int32_t>(std::nearbyintf(value));
}

}  // namespace

void quantize_reference(const QuantizeArguments& q) {
  const float high = static_cast<float>(q.high);
  const int64_t groups = q.stride / 32;
  for (int64_t m = 0; m < q.rows; ++m) {
    const float* x = q.x + m * q.x_stride;
    uint8_t* codes = q.codes + m * q.stride;
    float scale = q.static_scale;
    if (scale == 0.0f) {
      const float absmax = AbsMax(q, x);
      scale = absmax > 1e-30f ? absmax / high : 0.0f;
    }
    q.row_scales[m] = scale;
    const float divisor = scale > 0.0f ? scale : INFINITY;  // codes 0 where there is no scale
    q.sums[m] = 0;
    for (int64_t i = 0; q.pair_sums != nullptr && i < groups * 4; ++i) {
      q.pair_sums[m * groups * 4 + i] = 0;
    }
    for (int64_t k = 0; k < q.stride; ++k) {
      const float step = Step(q, k);
      const int32_t code =
          k < q.columns ? Code(x[k] / (divisor * step), q.low, q.high) * static_cast<int32_t>(step)
                        : 0;
      codes[k] = static_cast<uint8_t>(code);
      q.sums[m] += code;
      if (q.pair_sums != nullptr) {
        int16_t* pair = q.pair_sums + (m * groups * 2 + k / 16) * 2 + (k % 4) / 2;
        *pair = static_cast<int16_t>(*pair + code);
      }
    }
  }
}

}  // namespace edgefold
