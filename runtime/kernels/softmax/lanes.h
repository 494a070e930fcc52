// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include <limits>

#include "kernels/activation/formulas.h"
#include "kernels/softmax/softmax.h"

namespace edgefold {
namespace {

// The low bytes of whole numbers.
template <int kLanes>
struct LowBytes {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

  static void Store(typename Formulas<kLanes>::Ints codes, uint8_t* out) {
    const Bytes bytes = __builtin_convertvector(codes, Bytes);
    __builtin_memcpy(out, &bytes, sizeof bytes);
  }
};

template <int kLanes, typename Narrow>
struct SoftmaxRow {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;
  static constexpr float kLowest = -std::numeric_limits<float>::infinity();

  static Floats Load(const float* x) {
    Floats value;
    __builtin_memcpy(&value, x, sizeof value);
    return value;
  }

  // Fewer than kLanes scores, and the lowest behind them.
  static Floats LoadSome(const float* x, int64_t count) {
    Floats value = F::All(kLowest);
    __builtin_memcpy(&value, x, static_cast<size_t>(count) * sizeof(float));
    return value;
  }

  static Floats Larger(Floats a, Floats b) { return a > b ? a : b; }

  static float Largest(const float* x, int64_t columns) {
    Floats most = F::All(kLowest);
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) most = Larger(Load(x + n), most);
    if (n < columns) most = Larger(LoadSome(x + n, columns - n), most);
    float largest = most[0];
    for (int i = 1; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest;
  }

  static Ints Codes(Floats x, float largest) {
    constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
    const Floats e = F::Exp(x - largest);
    return (Ints)((e == e ? e : Floats{}) * 255.0f + kToInteger) & 0xff;
  }

  // Writes the codes of a row and returns their sum.
  static int32_t Run(const float* x, int64_t columns, float largest, uint8_t* codes) {
    Ints totals = {};
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      const Ints code = Codes(Load(x + n), largest);
      totals += code;
      Narrow::Store(code, codes + n);
    }
    if (n < columns) {
      const Ints code = Codes(LoadSome(x + n, columns - n), largest);
      totals += code;
      uint8_t last[kLanes];
      Narrow::Store(code, last);
      __builtin_memcpy(codes + n, last, static_cast<size_t>(columns - n));
    }
    int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += totals[i];
    return sum;
  }
};

template <int kLanes, typename Narrow = LowBytes<kLanes>>
inline void Softmax(const SoftmaxArguments& s) {
  using Row = SoftmaxRow<kLanes, Narrow>;
  for (int64_t m = 0; m < s.rows; ++m) {
    const float* x = s.x + m * s.x_stride;
    uint8_t* codes = s.codes + m * s.stride;
    const float largest = Row::Largest(x, s.columns);
    // Without a finite score there is nothing to weigh.
    const int64_t columns = largest > Row::kLowest ? s.columns : 0;
    s.totals[m] = Row::Run(x, columns, largest, codes);
    __builtin_memset(codes + columns, 0, static_cast<size_t>(s.stride - columns));
  }
}

}  // namespace
}  // namespace edgefold
