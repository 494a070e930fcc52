// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include <limits>

#include "base/low_bytes.h"
#include "base/some_lanes.h"
#include "kernels/activation/formulas.h"
#include "kernels/softmax/softmax.h"

namespace edgefold {
namespace {

constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
constexpr float kUnit = 32768.0f;        // of the exponentials that are summed: 2^15 * 65535 < 2^31

template <int kLanes, typename Narrow, typename Some>
struct SoftmaxRow {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;
  static constexpr float kLowest = -std::numeric_limits<float>::infinity();

  static Floats Larger(Floats a, Floats b) { return a > b ? a : b; }

  // Of lanes without a NaN, half of them at a time.
  static float Largest(Floats most) {
    if constexpr (kLanes > 1) {
      using Half = SoftmaxRow<kLanes / 2, Narrow, Some>;
      typename Half::Floats halves[2];
      __builtin_memcpy(halves, &most, sizeof most);
      return Half::Largest(Half::Larger(halves[0], halves[1]));
    }
    return most[0];
  }

  static float Largest(const float* x, int64_t columns) {
    Floats most = F::All(kLowest);
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) most = Larger(F::Load(x + n), most);
    if (n < columns) most = Larger(Some::Load(x + n, columns - n, kLowest), most);
    return Largest(most);
  }

  // Exponentials of some scores times their factors; adds the exponentials to the total.
  static Floats Weigh(Floats x, float largest, Floats factors, Ints* total) {
    const Floats raw = F::Exp(x - largest);
    const Floats e = raw == raw ? raw : Floats{};
    *total += (Ints)(e * kUnit + kToInteger) & 0xffff;
    const Floats u = e * factors;
    return u == u ? u : Floats{};
  }

  // Overwrites a row of scores by weights, with the total of their exponentials, and returns the
  // largest weight.
  static float Weigh(float* x, const float* factors, int64_t columns, float largest,
                     uint32_t* total) {
    Floats most = {};
    Ints totals = {};
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      const Floats u = Weigh(F::Load(x + n), largest, F::Load(factors + n), &totals);
      most = Larger(u, most);
      __builtin_memcpy(x + n, &u, sizeof u);
    }
    if (n < columns) {
      const Floats some = Some::Load(factors + n, columns - n, 0.0f);
      const Floats u = Weigh(Some::Load(x + n, columns - n, kLowest), largest, some, &totals);
      most = Larger(u, most);
      Some::Store(u, x + n, columns - n);
    }
    *total = 0;
    for (int i = 0; i < kLanes; ++i) *total += static_cast<uint32_t>(totals[i]);
    return Largest(most);
  }

  static Ints Codes(Floats u, float factor) { return (Ints)(u * factor + kToInteger) & 0xff; }

  static void Write(const float* u, int64_t columns, float factor, uint8_t* codes) {
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes)
      Narrow::Store(Codes(F::Load(u + n), factor), codes + n);
    if (n == columns) return;
    uint8_t last[kLanes];
    Narrow::Store(Codes(Some::Load(u + n, columns - n, 0.0f), factor), last);
    __builtin_memcpy(codes + n, last, static_cast<size_t>(columns - n));
  }
};

template <int kLanes, typename Narrow = LowBytes<kLanes>, typename Some = SomeLanes<kLanes>>
inline void Softmax(const SoftmaxArguments& s) {
  using Row = SoftmaxRow<kLanes, Narrow, Some>;
  for (int64_t m = 0; m < s.rows; ++m) {
    float* x = s.x + m * s.x_stride;
    uint8_t* codes = s.codes + m * s.stride;
    uint32_t total = 0;
    float top = 0.0f;
    const float largest = Row::Largest(x, s.columns);
    // Without a finite score there is nothing to weigh.
    if (largest > Row::kLowest) top = Row::Weigh(x, s.factors, s.columns, largest, &total);
    const int64_t columns = top > 1e-30f ? s.columns : 0;
    if (columns > 0) Row::Write(x, columns, 255.0f / top, codes);
    if (columns < s.stride) {
      __builtin_memset(codes + columns, 0, static_cast<size_t>(s.stride - columns));
    }
    s.steps[m] = top * (kUnit / 255.0f) / static_cast<float>(total > 1 ? total : 1);
  }
}

}  // namespace
}  // namespace edgefold
