// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include <cstdint>
#include <limits>

#include "base/low_bytes.h"
#include "base/some_lanes.h"
#include "kernels/activation/formulas.h"
#include "kernels/softmax/softmax.h"

namespace edgefold {
namespace {

constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
constexpr uint32_t kToIntegerBits = 0x4b400000;
constexpr float kUnit = 32768.0f;  // of the exponentials that are summed: 2^15 * 65535 < 2^31

template <int kLanes, typename Narrow, typename Some>
struct SoftmaxRow {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;
  typedef uint32_t Totals __attribute__((vector_size(4 * kLanes)));
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

  // Of all lanes, half of them at a time.
  static uint32_t Sum(Totals totals) {
    if constexpr (kLanes > 1) {
      using Half = SoftmaxRow<kLanes / 2, Narrow, Some>;
      typename Half::Totals halves[2];
      __builtin_memcpy(halves, &totals, sizeof totals);
      return Half::Sum(halves[0] + halves[1]);
    }
    uint32_t sum;
    __builtin_memcpy(&sum, &totals, sizeof sum);
    return sum;
  }

  // Exponentials of some scores times their factors; adds the exponentials, rounded and each with
  // the bits of kToInteger, to the total.
  static Floats Weigh(Floats x, float largest, Floats factors, Totals* total) {
    const Floats e = F::ExpOrZero(x - largest);
    *total += (Totals)(e * kUnit + kToInteger);
    return Larger(e * factors, Floats{});  // zero for a NaN
  }

  // Overwrites a row of scores by weights, with the total of their exponentials, and returns the
  // largest weight.
  static float Weigh(float* x, const float* factors, int64_t columns, float largest,
                     uint32_t* total) {
    Floats most = {};
    Totals totals = {};
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
      n += kLanes;
    }
    *total = Sum(totals) - static_cast<uint32_t>(n) * kToIntegerBits;
    return Largest(most);
  }

  static void Write(const float* u, int64_t columns, float factor, uint8_t* codes) {
    const auto narrow = [&](Floats some, uint8_t* out) {
      Narrow::Store((Ints)(some * factor + kToInteger), out);
    };
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) narrow(F::Load(u + n), codes + n);
    if (n == columns) return;
    uint8_t last[kLanes];
    narrow(Some::Load(u + n, columns - n, 0.0f), last);
    __builtin_memcpy(codes + n, last, static_cast<size_t>(columns - n));
  }
};

// Some rows, one step after the other for all of them: what one row waits for, others hide.
template <typename Row, int kRows>
inline void SoftmaxRows(const SoftmaxArguments& s, int64_t first) {
  float largest[kRows], top[kRows];
  uint32_t total[kRows];
  const auto row = [&](int m) { return s.x + (first + m) * s.x_stride; };
  for (int m = 0; m < kRows; ++m) largest[m] = Row::Largest(row(m), s.columns);
  for (int m = 0; m < kRows; ++m) {
    top[m] = 0.0f;
    total[m] = 0;
    if (largest[m] == Row::kLowest) continue;  // there is nothing to weigh
    top[m] = Row::Weigh(row(m), s.factors, s.columns, largest[m], &total[m]);
  }
  for (int m = 0; m < kRows; ++m) {
    uint8_t* codes = s.codes + (first + m) * s.stride;
    const int64_t columns = top[m] > 1e-30f ? s.columns : 0;
    if (columns > 0) Row::Write(row(m), columns, 255.0f / top[m], codes);
    if (columns < s.stride) {
      __builtin_memset(codes + columns, 0, static_cast<size_t>(s.stride - columns));
    }
    s.steps[first + m] =
        top[m] * (kUnit / 255.0f) / static_cast<float>(total[m] > 1 ? total[m] : 1);
  }
}

template <int kLanes, typename Narrow = LowBytes<kLanes>, typename Some = SomeLanes<kLanes>>
inline void Softmax(const SoftmaxArguments& s) {
  using Row = SoftmaxRow<kLanes, Narrow, Some>;
  constexpr int kTogether = 4;
  int64_t m = 0;
  for (; m + kTogether <= s.rows; m += kTogether) SoftmaxRows<Row, kTogether>(s, m);
  for (; m < s.rows; ++m) SoftmaxRows<Row, 1>(s, m);
}

}  // namespace
}  // namespace edgefold
