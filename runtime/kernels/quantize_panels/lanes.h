// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include "base/packed_matrix.h"
#include "kernels/activation/formulas.h"
#include "kernels/quantize_panels/quantize_panels.h"

namespace edgefold {
namespace {

// kLanes columns at a time.
template <int kLanes>
struct PanelLanes {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;

  const QuantizePanelsArguments& q;

  // Zeros beyond the matrix.
  Floats At(int64_t k, int64_t n) const {
    Floats value = {};
    const float* x = q.x + k * q.columns + n;
    if (k >= q.rows || n >= q.columns) return value;
    if (n + kLanes <= q.columns) {
      __builtin_memcpy(&value, x, sizeof value);
    } else {
      __builtin_memcpy(&value, x, static_cast<size_t>(q.columns - n) * sizeof(float));
    }
    return value;
  }

  float Scale(int64_t k) const {
    Floats most = {};
    for (int64_t n = 0; n < q.columns; n += kLanes) {
      const Floats magnitude = F::Magnitude(At(k, n));
      most = magnitude > most ? magnitude : most;
    }
    float largest = most[0];
    for (int i = 1; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest > 1e-30f ? largest / 127.0f : 0.0f;
  }

  // Codes as their low bytes.
  static Ints Codes(Floats x, float divisor) {
    constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
    const Floats value = F::Clip(x / divisor, -127.0f, 127.0f);
    return (Ints)((value == value ? value : Floats{}) + kToInteger) & 0xff;
  }

  // Four rows, which share the units of a panel.
  void Run(int64_t unit, int64_t units) const {
    float divisors[kUnitDepth];
    for (int i = 0; i < kUnitDepth; ++i) {
      const int64_t k = unit * kUnitDepth + i;
      const float scale = k < q.rows ? Scale(k) : 0.0f;
      if (k < q.rows) q.scales[k] = scale;
      divisors[i] = scale > 0.0f ? scale : __builtin_inff();
    }
    const int64_t padded = (q.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
    for (int64_t n = 0; n < padded; n += kLanes) {
      Ints four = {};
      for (int i = 0; i < kUnitDepth; ++i) {
        four |= Codes(At(unit * kUnitDepth + i, n), divisors[i]) << (8 * i);
      }
      int8_t* panel = q.panels + n / kPanelColumns * units * kUnitCodes;
      int8_t* out = panel + unit * kUnitCodes + n % kPanelColumns * kUnitDepth;
      __builtin_memcpy(out, &four, sizeof four);
    }
  }
};

template <int kLanes>
inline void QuantizePanels(const QuantizePanelsArguments& q) {
  const int64_t units = (q.rows + kUnitDepth - 1) / kUnitDepth;
  for (int64_t u = 0; u < units; ++u) PanelLanes<kLanes>{q}.Run(u, units);
}

}  // namespace
}  // namespace edgefold
