// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/activation/formulas.h"
#include "kernels/requantize/requantize.h"

namespace edgefold {
namespace {

// A NaN becomes `low`.
float Clip(float value, float low, float high) {
  const float raised = value > low ? value : low;
  return raised < high ? raised : high;
}

float AddResidual(const RequantizeArguments& r, Residual place, int64_t i, int64_t n, float value) {
  if (r.place != place) return value;
  const uint8_t code = r.residual[i * r.residual_stride + n];
  const int32_t integer = r.residual_is_unsigned ? code : static_cast<int8_t>(code);
  const float product = static_cast<float>(integer) * r.residual_scale;
  return value + product;
}

float Activated(const Activation& activation, float value) {
  if (activation.kind == ActivationKind::kClip) {
    return Clip(value, activation.alpha, activation.beta);
  }
  using Floats = Formulas<1>::Floats;
  WithFunction<1>(activation, [&](const auto& f) { value = f(Floats{value})[0]; });
  return value;
}

}  // namespace

void requantize_reference(const RequantizeArguments& r) {
  const float low = static_cast<float>(r.range.low);
  const float high = static_cast<float>(r.range.high);
  for (int64_t i = 0; i < r.pixels; ++i) {
    for (int64_t n = 0; n < r.channels; ++n) {
      const float product = static_cast<float>(r.sums[i * r.stride + n]) * r.scales[n];
      float value = AddResidual(r, Residual::kBeforeActivation, i, n, product + r.bias[n]);
      value = Activated(r.activation, value);
      value = AddResidual(r, Residual::kAfterActivation, i, n, value);
      if (r.range.is_float()) {
        static_cast<float*>(r.y)[i * r.y_stride + n] = value;
      } else {
        const float code = std::nearbyint(Clip(value / r.y_scale, low, high));
        static_cast<uint8_t*>(r.y)[i * r.y_stride + n] =
            static_cast<uint8_t>(static_cast<int32_t>(code));
      }
    }
  }
}

}  // namespace edgefold
