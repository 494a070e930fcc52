// SPDX-License-Identifier: Apache-2.0
// Up to 64 channels of a pixel at a time: four registers of sums, one store of codes. Bounds of the
// codes are left to the last steps, where 64 of them fill a register.
#include "base/x86_vnni.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/unroll.h"
#include "kernels/activation/formulas.h"
#include "kernels/requantize/requantize.h"
#include "kernels/requantize/x86_vnni_curve.h"

namespace edgefold {
namespace {

constexpr int kLanes = 16;
constexpr int kMostVectors = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = Formulas<kLanes>::Floats;

// max gives `low` for NaN.
inline EF_INLINE __m512 Clip(__m512 value, __m512 low, __m512 high) {
  return _mm512_min_ps(_mm512_max_ps(value, low), high);
}

inline float Clip(float value, float low, float high) {
  return std::min(std::max(value, low), high);
}

// Dwords of four registers, packed lane by lane, in the order of their channels.
inline EF_INLINE __m512i InOrder(__m512i packed) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, packed);
}

// kFloats, or codes: kBoundedCodes of values that are so many codes that they fit 32 bits;
// kCurvedCodes by a curve, where it is certain, and nothing is added after the activation.
enum class Results { kFloats, kCodes, kBoundedCodes, kCurvedCodes };

constexpr CodeCurve kNoCurve = {};

// Channels first ... of a pixel, as many as fill kVectors registers but for the last.
template <Results kResults, int kVectors, typename Function>
class Columns {
  static constexpr bool kCurved = kResults == Results::kCurvedCodes;

 public:
  inline EF_INLINE Columns(const RequantizeArguments& r, int64_t first, float clip_low,
                           float clip_high, const Function& activation, const CodeCurve* curve)
      : activation_(activation),
        curve_(kCurved ? *curve : kNoCurve),
        divider_(r.y_scale),
        place_(r.place),
        residual_is_unsigned_(r.residual_is_unsigned),
        is_unsigned_(r.range.is_unsigned()),
        residual_scale_(_mm512_set1_ps(r.residual_scale)),
        low_(_mm512_set1_ps(clip_low)) {
    const int64_t count = std::min<int64_t>(r.channels - first, kVectors * kLanes);
    whole_ = count == kVectors * kLanes;
    bytes_ = count == 64 ? ~0ull : (1ull << count) - 1;
    if constexpr (kResults != Results::kFloats) {
      // From here on quotients round to the lowest and the highest code.
      const float lowest = static_cast<float>(r.range.low) * r.y_scale;
      const float highest = static_cast<float>(r.range.high) * r.y_scale;
      clip_high = Clip(clip_high, lowest, highest);
      lowest_ = CodeOf(Clip(clip_low, lowest, highest));
      highest_ = CodeOf(clip_high);
    }
    high_ = _mm512_set1_ps(clip_high);
    Unroll<kVectors>([&](auto h) EF_INLINE {
      scale_[h] = _mm512_loadu_ps(r.scales + first + kLanes * h);
      bias_[h] = _mm512_loadu_ps(r.bias + first + kLanes * h);
    });
  }

  inline EF_INLINE void Pixel(const int32_t* sums, const uint8_t* residual, uint8_t* y) const {
    __m512 v[kVectors];
    __m512i codes[kMostVectors];
    if constexpr (kCurved) {
      CurvedCodes(sums, residual, codes);
      return Store(codes, y);
    }
    Unroll<kVectors>([&](auto h) EF_INLINE { v[h] = Value<h>(sums, residual); });
    if constexpr (kResults != Results::kFloats) {
      Unroll<kVectors>([&](auto h) EF_INLINE { codes[h] = Code(v[h]); });
      Store(codes, y);
    } else {
      Unroll<kVectors>([&](auto h) EF_INLINE {
        _mm512_mask_storeu_ps(y + 4 * kLanes * h, Mask<h>(), Clip(v[h], low_, high_));
      });
    }
  }

 private:
  template <int kVector>
  __mmask16 Mask() const {
    return static_cast<__mmask16>(bytes_ >> kVector * kLanes);
  }

  template <int kVector>
  inline EF_INLINE __m512 Add(__m512 value, const uint8_t* residual) const {
    const __m128i bytes = _mm_maskz_loadu_epi8(Mask<kVector>(), residual + kLanes * kVector);
    const __m512i codes =
        residual_is_unsigned_ ? _mm512_cvtepu8_epi32(bytes) : _mm512_cvtepi8_epi32(bytes);
    return _mm512_add_ps(value, _mm512_mul_ps(_mm512_cvtepi32_ps(codes), residual_scale_));
  }

  __m512i CodeOf(float value) const {
    const __m512i code = divider_.Round(_mm512_set1_ps(value));
    return _mm512_set1_epi8(static_cast<char>(_mm512_cvtsi512_si32(code)));
  }

  // What does not fit 32 bits is converted to the least integer: that suits what is too low, and a
  // NaN, which stays one in the smaller of it and a number.
  inline EF_INLINE __m512i Code(__m512 v) const {
    if constexpr (kResults != Results::kBoundedCodes) v = _mm512_min_ps(high_, v);
    return divider_.Round(v);
  }

  template <int kVector>
  inline EF_INLINE __m512 Value(const int32_t* sums, const uint8_t* residual) const {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums + kLanes * kVector));
    __m512 v = _mm512_add_ps(_mm512_mul_ps(sum, scale_[kVector]), bias_[kVector]);
    if (place_ == Residual::kBeforeActivation) v = Add<kVector>(v, residual);
    v = (__m512)activation_((Floats)v);
    return place_ == Residual::kAfterActivation ? Add<kVector>(v, residual) : v;
  }

  // Where a tie is near in any vector, the formula decides for all of that vector.
  inline EF_INLINE void CurvedCodes(const int32_t* sums, const uint8_t* residual,
                                    __m512i* codes) const {
    __m512 v[kVectors], quotients[kVectors];
    Unroll<kVectors>([&](auto h) EF_INLINE {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums + kLanes * h));
      v[h] = _mm512_fmadd_ps(sum, scale_[h], bias_[h]);
      if (place_ == Residual::kBeforeActivation) v[h] = Add<h>(v[h], residual);
    });
    curve_.Quotients(v, quotients);
    __mmask16 near[kVectors];
    unsigned any = 0;
    Unroll<kVectors>([&](auto h) EF_INLINE {
      near[h] = curve_.Near(quotients[h]);
      any |= near[h];
      codes[h] = _mm512_cvtps_epi32(quotients[h]);
    });
    if (__builtin_expect(any == 0, 1)) return;
    Unroll<kVectors>([&](auto h) EF_INLINE {
      if (near[h] != 0) codes[h] = Exact<h>(sums, residual);
    });
  }
  template <int kVector>
  __attribute__((noinline)) __m512i Exact(const int32_t* sums, const uint8_t* residual) const {
    return Code(Value<kVector>(sums, residual));
  }

  inline EF_INLINE void Store(__m512i* codes, uint8_t* y) const {
    Unroll<kMostVectors - kVectors>([&](auto h) EF_INLINE { codes[kVectors + h] = codes[0]; });
    const __m512i low = _mm512_packs_epi32(codes[0], codes[1]);
    const __m512i high = kVectors > 2 ? _mm512_packs_epi32(codes[2], codes[3]) : low;
    __m512i bytes;
    if (is_unsigned_) {
      bytes = _mm512_packus_epi16(low, high);
      bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, lowest_), highest_);
    } else {
      bytes = _mm512_packs_epi16(low, high);
      bytes = _mm512_min_epi8(_mm512_max_epi8(bytes, lowest_), highest_);
    }
    bytes = InOrder(bytes);
    if (whole_) {
      __builtin_memcpy(y, &bytes, kVectors * kLanes);
    } else if constexpr (kVectors == 1) {
      _mm_mask_storeu_epi8(y, Mask<0>(), _mm512_castsi512_si128(bytes));
    } else if constexpr (kVectors == 2) {
      const __mmask32 mask = static_cast<__mmask32>(bytes_);
      _mm256_mask_storeu_epi8(y, mask, _mm512_castsi512_si256(bytes));
    } else {
      _mm512_mask_storeu_epi8(y, bytes_, bytes);
    }
  }

  Function activation_;
  Curve curve_;
  Divider divider_;
  __m512 scale_[kVectors], bias_[kVectors];
  Residual place_;
  bool residual_is_unsigned_;
  bool is_unsigned_;
  __m512 residual_scale_;
  __m512 low_, high_;
  __m512i lowest_, highest_;
  bool whole_;       // whether all channels are there
  __mmask64 bytes_;  // of those that are
};

template <Results kResults, int kVectors, typename Function>
void RunColumns(const RequantizeArguments& r, int64_t first, float low, float high,
                const Function& activation, const CodeCurve* curve) {
  constexpr int64_t kElement = kResults == Results::kFloats ? 4 : 1;
  // Copies: a store to y might change what r points to, for all that the compiler knows.
  const int64_t pixels = r.pixels;
  const int64_t stride = r.stride;
  const int64_t y_stride = r.y_stride * kElement;
  const bool adds = r.place != Residual::kNone;
  const int64_t residual_stride = adds ? r.residual_stride : 0;
  const Columns<kResults, kVectors, Function> columns(r, first, low, high, activation, curve);
  const int32_t* sums = r.sums + first;
  const uint8_t* residual = adds ? r.residual + first : nullptr;
  uint8_t* y = static_cast<uint8_t*>(r.y) + first * kElement;
  for (int64_t i = 0; i < pixels; ++i, sums += stride, y += y_stride) {
    columns.Pixel(sums, residual, y);
    residual += residual_stride;
  }
}

template <Results kResults, typename Function>
void Run(const RequantizeArguments& r, float low, float high, const Function& activation,
         const CodeCurve* curve = nullptr) {
  for (int64_t n = 0; n < r.channels; n += kMostVectors * kLanes) {
    const int64_t vectors = (r.channels - n + kLanes - 1) / kLanes;
    if (vectors >= 4) {
      RunColumns<kResults, 4>(r, n, low, high, activation, curve);
    } else if (vectors == 3) {
      RunColumns<kResults, 3>(r, n, low, high, activation, curve);
    } else if (vectors == 2) {
      RunColumns<kResults, 2>(r, n, low, high, activation, curve);
    } else {
      RunColumns<kResults, 1>(r, n, low, high, activation, curve);
    }
  }
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

template <bool kCodes, typename Function>
void RunFunction(const RequantizeArguments& r, float low, float high, const Function& activation) {
  if constexpr (!kCodes) return Run<Results::kFloats>(r, low, high, activation);
  if (Bounded(r)) return Run<Results::kBoundedCodes>(r, low, high, activation);
  Run<Results::kCodes>(r, low, high, activation);
}

template <bool kCodes>
void RunActivation(const RequantizeArguments& r) {
  if (kCodes && r.curve != nullptr) {
    return WithFunction<kLanes>(r.activation, [&](const auto& f) {
      Run<Results::kCurvedCodes>(r, -kInfinity, kInfinity, f, r.curve);
    });
  }
  if (r.activation.kind != ActivationKind::kClip) {
    return WithFunction<kLanes>(
        r.activation, [&](const auto& f) { RunFunction<kCodes>(r, -kInfinity, kInfinity, f); });
  }
  const float alpha = r.activation.alpha;
  const float beta = r.activation.beta;
  if (r.place != Residual::kAfterActivation) {
    return RunFunction<kCodes>(r, alpha, beta, [](Floats x) { return x; });
  }
  RunFunction<kCodes>(r, -kInfinity, kInfinity, [=](Floats x) {
    return (Floats)Clip((__m512)x, _mm512_set1_ps(alpha), _mm512_set1_ps(beta));
  });
}

}  // namespace

void requantize_x86_vnni(const RequantizeArguments& r) {
  r.range.is_float() ? RunActivation<false>(r) : RunActivation<true>(r);
}

}  // namespace edgefold
