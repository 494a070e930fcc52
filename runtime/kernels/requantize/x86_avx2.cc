// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/unroll.h"
#include "kernels/activation/formulas.h"
#include "kernels/requantize/requantize.h"
#include "kernels/requantize/x86_avx2_estimate.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;  // channels at a time: two registers, one store of codes
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = Formulas<8>::Floats;

// max gives `low` for NaN.
inline EF_INLINE __m256 Clip(__m256 value, __m256 low, __m256 high) {
  return _mm256_min_ps(_mm256_max_ps(value, low), high);
}

// The low bytes of sixteen lanes of [-127, 255].
inline EF_INLINE __m128i Pack(__m256i first, __m256i second) {
  const __m256i low_bytes = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_packs_epi32(first, second), low_bytes);
  // Four of `first` and four of `second` in either half.
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}

// Where values are clipped before they become results: kClip costs nothing beside codes.
struct Bounds {
  __m256 low, high;

  inline EF_INLINE Bounds(const CodeRange& range, float y_scale, float clip_low, float clip_high) {
    low = _mm256_set1_ps(clip_low);
    high = _mm256_set1_ps(clip_high);
    if (range.is_float()) return;
    // From here on quotients round to the lowest and the highest code.
    const __m256 lowest = _mm256_set1_ps(static_cast<float>(range.low) * y_scale);
    const __m256 highest = _mm256_set1_ps(static_cast<float>(range.high) * y_scale);
    low = Clip(low, lowest, highest);
    high = Clip(high, lowest, highest);
  }
};

// Sixteen channels of any number of pixels.
template <bool kCodes, typename Function>
class Columns {
 public:
  inline EF_INLINE Columns(const RequantizeArguments& r, int64_t n, const Bounds& bounds,
                           const Function& activation)
      : activation_(activation),
        bounds_(bounds),
        y_scale_(_mm256_set1_ps(r.y_scale)),
        reciprocal_(_mm256_set1_ps(1.0f / r.y_scale)),
        place_(r.place),
        residual_is_unsigned_(r.residual_is_unsigned),
        residual_scale_(_mm256_set1_ps(r.residual_scale)) {
    Unroll<2>([&](auto h) EF_INLINE {
      scale_[h] = _mm256_loadu_ps(r.scales + n + 8 * h);
      bias_[h] = _mm256_loadu_ps(r.bias + n + 8 * h);
    });
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    __m256 v[2];
    Unroll<2>([&](auto h) EF_INLINE {
      const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 8 * h));
      v[h] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale_[h]), bias_[h]);
      if (place_ == Residual::kBeforeActivation) v[h] = Add(v[h], residual + 8 * h);
      v[h] = (__m256)activation_((Floats)v[h]);
      if (place_ == Residual::kAfterActivation) v[h] = Add(v[h], residual + 8 * h);
      v[h] = Clip(v[h], bounds_.low, bounds_.high);
    });
    if constexpr (kCodes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y), Pack(Code(v[0]), Code(v[1])));
    } else {
      _mm256_storeu_ps(reinterpret_cast<float*>(y), v[0]);
      _mm256_storeu_ps(reinterpret_cast<float*>(y) + 8, v[1]);
    }
  }

 private:
  inline EF_INLINE __m256i Code(__m256 v) const { return RoundQuotient(v, y_scale_, reciprocal_); }

  inline EF_INLINE __m256 Add(__m256 value, const uint8_t* residual) const {
    const __m256 codes = EightResiduals(residual, residual_is_unsigned_);
    return _mm256_add_ps(value, _mm256_mul_ps(codes, residual_scale_));
  }

  Function activation_;
  Bounds bounds_;
  __m256 y_scale_, reciprocal_;
  Residual place_;
  bool residual_is_unsigned_;
  __m256 residual_scale_;
  __m256 scale_[2], bias_[2];
};

template <bool kCodes, typename Function>
void Run(const RequantizeArguments& r, const Bounds& bounds, const Function& activation) {
  constexpr int64_t kElement = kCodes ? 1 : 4;
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride * kElement;
  const bool adds = r.place != Residual::kNone;
  const int64_t residual_stride = adds ? r.residual_stride : 0;
  for (int64_t first = 0; first < r.channels; first += kLanes) {
    // The last sixteen overlap those before them where they would reach beyond the channels.
    const int64_t n = r.channels < kLanes ? 0 : std::min(first, r.channels - kLanes);
    const Columns<kCodes, Function> columns(r, n, bounds, activation);
    const int32_t* sums = r.sums + n;
    const uint8_t* residual = adds ? r.residual + n : nullptr;
    uint8_t* y = static_cast<uint8_t*>(r.y) + n * kElement;
    if (n + kLanes <= r.channels) {
      for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
        columns.Pixel(sums, residual, y);
        residual += residual_stride;
      }
      continue;
    }
    // Fewer channels: nothing beyond them may be read of the residual, or written.
    const size_t left = static_cast<size_t>(r.channels - n);
    for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
      uint8_t codes[kLanes] = {};
      uint8_t results[kLanes * kElement];
      if (adds) std::memcpy(codes, residual, left);
      columns.Pixel(sums, codes, results);
      std::memcpy(y, results, left * kElement);
      residual += residual_stride;
    }
  }
}

template <bool kCodes>
void RunActivation(const RequantizeArguments& r) {
  if (r.activation.kind != ActivationKind::kClip) {
    const Bounds bounds(r.range, r.y_scale, -kInfinity, kInfinity);
    return WithFunction<8>(r.activation, [&](const auto& f) { Run<kCodes>(r, bounds, f); });
  }
  const float alpha = r.activation.alpha;
  const float beta = r.activation.beta;
  if (r.place != Residual::kAfterActivation) {
    const Bounds bounds(r.range, r.y_scale, alpha, beta);
    return Run<kCodes>(r, bounds, [](Floats x) { return x; });
  }
  const Bounds bounds(r.range, r.y_scale, -kInfinity, kInfinity);
  Run<kCodes>(r, bounds, [=](Floats x) {
    return (Floats)Clip((__m256)x, _mm256_set1_ps(alpha), _mm256_set1_ps(beta));
  });
}

template <EstimateForm kForm, bool kAdds, int kVectors>
void RunEstimated(const RequantizeArguments& r, int64_t n) {
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride;
  const int64_t residual_stride = kAdds ? r.residual_stride : 0;
  const EstimatedColumns<kForm, kAdds, kVectors> columns(r, n);
  const int32_t* sums = r.sums + n;
  const uint8_t* residual = kAdds ? r.residual + n : nullptr;
  uint8_t* y = static_cast<uint8_t*>(r.y) + n;
  for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
    columns.Pixel(sums, residual, y);
    residual += residual_stride;
  }
}

// 32 channels at a time, and the rest in sixteens, of which the last overlap those before them.
template <EstimateForm kForm, bool kAdds>
void RunEstimated(const RequantizeArguments& r) {
  int64_t n = 0;
  for (; n + 32 <= r.channels; n += 32) RunEstimated<kForm, kAdds, 4>(r, n);
  for (; n < r.channels; n += kLanes) {
    RunEstimated<kForm, kAdds, 2>(r, std::min(n, r.channels - kLanes));
  }
}

template <EstimateForm kForm>
void RunEstimated(const RequantizeArguments& r) {
  r.place == Residual::kNone ? RunEstimated<kForm, false>(r) : RunEstimated<kForm, true>(r);
}

}  // namespace

void requantize_x86_avx2(const RequantizeArguments& r) {
  const bool estimated = r.estimate != nullptr && r.channels >= kLanes;
  switch (estimated ? r.estimate->form : EstimateForm::kNone) {
    case EstimateForm::kLine:
      return RunEstimated<EstimateForm::kLine>(r);
    case EstimateForm::kRamp:
      return RunEstimated<EstimateForm::kRamp>(r);
    case EstimateForm::kQuartics:
      return RunEstimated<EstimateForm::kQuartics>(r);
    case EstimateForm::kNone:
    case EstimateForm::kCubics:
      break;
  }
  r.range.is_float() ? RunActivation<false>(r) : RunActivation<true>(r);
}

}  // namespace edgefold
