// SPDX-License-Identifier: Apache-2.0
#include "base/x86_vnni.h"

#include <cmath>
#include <limits>

#include "kernels/requantize/requantize.h"
#include "kernels/requantize/x86_vnni_columns.h"
#include "kernels/requantize/x86_vnni_estimate.h"

namespace edgefold {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// All pixels of the channels from `first` on that `columns` are of.
template <typename ColumnsOf>
void RunColumns(const RequantizeArguments& r, int64_t first, const ColumnsOf& columns) {
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t element = r.range.is_float() ? 4 : 1;
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride * element;
  const bool adds = r.place != Residual::kNone;
  const int64_t residual_stride = adds ? r.residual_stride : 0;
  const int32_t* sums = r.sums + first;
  const uint8_t* residual = adds ? r.residual + first : nullptr;
  uint8_t* y = static_cast<uint8_t*>(r.y) + first * element;
  for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
    columns.Pixel(sums, residual, y);
    residual += residual_stride;
  }
}

// run(first, Index<vectors>) for all channels, as many vectors at a time as there are, up to four.
template <typename Body>
void ForAllColumns(int64_t channels, const Body& run) {
  for (int64_t n = 0; n < channels; n += kMostVectors * kLanes) {
    const int64_t vectors = (channels - n + kLanes - 1) / kLanes;
    if (vectors >= 4) {
      run(n, Index<4>{});
    } else if (vectors == 3) {
      run(n, Index<3>{});
    } else if (vectors == 2) {
      run(n, Index<2>{});
    } else {
      run(n, Index<1>{});
    }
  }
}

template <Results kResults, typename Function>
void Run(const RequantizeArguments& r, float low, float high, const Function& activation) {
  ForAllColumns(r.channels, [&](int64_t n, auto vectors) {
    RunColumns(r, n, Columns<kResults, vectors, Function>(r, n, low, high, activation));
  });
}

template <typename Estimate, bool kAdds>
void RunEstimate(const RequantizeArguments& r) {
  ForAllColumns(r.channels, [&](int64_t n, auto vectors) {
    RunColumns(r, n, EstimatedColumns<Estimate, kAdds, vectors>(r, n));
  });
}

template <typename Estimate>
void RunEstimate(const RequantizeArguments& r) {
  r.place == Residual::kNone ? RunEstimate<Estimate, false>(r) : RunEstimate<Estimate, true>(r);
}

// Whether no value is as much as 2^30 codes: no activation gives more than its argument, or 1.
bool Bounded(const RequantizeArguments& r) {
  const float residual = r.place == Residual::kNone ? 0.0f : 255 * std::abs(r.residual_scale);
  const __m512 most = _mm512_set1_ps(0x1p30f * r.y_scale - 1.0f);
  const __m512 sum = _mm512_set1_ps(0x1p31f);
  bool bounded = true;
  for (int64_t n = 0; n < r.channels; n += kLanes) {
    const __m512 scaled = _mm512_mul_ps(_mm512_abs_ps(_mm512_loadu_ps(r.scales + n)), sum);
    const __m512 biased = _mm512_add_ps(scaled, _mm512_abs_ps(_mm512_loadu_ps(r.bias + n)));
    const __m512 value = _mm512_add_ps(biased, _mm512_set1_ps(residual));
    bounded &= _mm512_cmp_ps_mask(value, most, _CMP_LT_OQ) == 0xffff;
  }
  return bounded;
}

template <typename Function>
void RunFunction(const RequantizeArguments& r, float low, float high, const Function& activation) {
  if (r.range.is_float()) return Run<Results::kFloats>(r, low, high, activation);
  if (Bounded(r)) return Run<Results::kBoundedCodes>(r, low, high, activation);
  Run<Results::kCodes>(r, low, high, activation);
}

void RunFormula(const RequantizeArguments& r) {
  if (r.activation.kind != ActivationKind::kClip) {
    return WithFunction<kLanes>(r.activation,
                                [&](const auto& f) { RunFunction(r, -kInfinity, kInfinity, f); });
  }
  const float alpha = r.activation.alpha;
  const float beta = r.activation.beta;
  if (r.place != Residual::kAfterActivation) {
    return RunFunction(r, alpha, beta, [](Floats x) { return x; });
  }
  RunFunction(r, -kInfinity, kInfinity, [=](Floats x) {
    return (Floats)Clip((__m512)x, _mm512_set1_ps(alpha), _mm512_set1_ps(beta));
  });
}

}  // namespace

void requantize_x86_vnni(const RequantizeArguments& r) {
  switch (r.estimate == nullptr ? EstimateForm::kNone : r.estimate->form) {
    case EstimateForm::kNone:
    case EstimateForm::kQuartics:
      return RunFormula(r);
    case EstimateForm::kLine:
      return RunEstimate<LineEstimate>(r);
    case EstimateForm::kRamp:
      return RunEstimate<RampEstimate>(r);
    case EstimateForm::kCubics:
      return RunEstimate<CubicsEstimate>(r);
  }
}

}  // namespace edgefold
