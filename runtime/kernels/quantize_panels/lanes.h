// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include "base/low_bytes.h"
#include "base/packed_matrix.h"
#include "kernels/activation/formulas.h"
#include "kernels/quantize_panels/quantize_panels.h"

namespace edgefold {
namespace {

// kLanes columns of a row at a time.
template <int kLanes>
struct RowLanes {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;

  static Floats Larger(Floats most, Floats x) {
    const Floats magnitude = F::Magnitude(x);
    return magnitude > most ? magnitude : most;
  }

  static float Scale(const float* x, int64_t columns) {
    Floats most = {};
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) most = Larger(most, F::Load(x + n));
    if (n < columns) most = Larger(most, F::LoadSome(x + n, columns - n, 0.0f));
    float largest = most[0];
    for (int i = 1; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest > 1e-30f ? largest / 127.0f : 0.0f;
  }

  // Codes as their low bytes. No quotient is beyond 127 and a half, or not finite, but NaN.
  static Ints Codes(Floats x, float divisor) {
    constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
    const Floats value = x / divisor;
    return (Ints)((value == value ? value : Floats{}) + kToInteger) & 0xff;
  }
};

// Four rows, which share the units of a panel.
template <int kLanes>
struct UnitLanes {
  using Row = RowLanes<kLanes>;

  const float* rows[kUnitDepth];
  float divisors[kUnitDepth];

  // The rows from `first` on; behind the last one it stands again, divided to zeros.
  UnitLanes(const QuantizePanelsArguments& q, int64_t first) {
    for (int i = 0; i < kUnitDepth; ++i) {
      const int64_t k = first + i < q.rows ? first + i : q.rows - 1;
      rows[i] = q.x + k * q.x_stride;
      const float scale = first + i < q.rows ? Row::Scale(rows[i], q.columns) : 0.0f;
      if (first + i < q.rows) q.scales[k] = scale;
      divisors[i] = scale > 0.0f ? scale : __builtin_inff();
    }
  }

  template <typename Take>
  void Write(const Take& take, int8_t* out) const {
    typename Row::Ints four = {};
    for (int i = 0; i < kUnitDepth; ++i) four |= Row::Codes(take(rows[i]), divisors[i]) << (8 * i);
    __builtin_memcpy(out, &four, sizeof four);
  }
};

template <int kLanes>
inline void QuantizeDeep(const QuantizePanelsArguments& q) {
  using Row = RowLanes<kLanes>;
  const int64_t units = (q.rows + kUnitDepth - 1) / kUnitDepth;
  const int64_t padded = (q.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  const int64_t whole = q.columns / kLanes * kLanes;
  for (int64_t u = 0; u < units; ++u) {
    const UnitLanes<kLanes> unit(q, u * kUnitDepth);
    const auto at = [&](int64_t n) {
      int8_t* panel = q.panels + n / kPanelColumns * units * kUnitCodes;
      return panel + u * kUnitCodes + n % kPanelColumns * kUnitDepth;
    };
    for (int64_t n = 0; n < whole; n += kLanes) {
      unit.Write([n](const float* x) { return Row::F::Load(x + n); }, at(n));
    }
    for (int64_t n = whole; n < padded; n += kLanes) {
      unit.Write([&](const float* x) { return Row::F::LoadSome(x + n, q.columns - n, 0.0f); },
                 at(n));
    }
  }
}

// Each row is a column of the operand.
template <int kLanes, typename Narrow>
inline void QuantizeTransposed(const QuantizePanelsArguments& q) {
  using Row = RowLanes<kLanes>;
  using F = Formulas<kLanes>;
  constexpr int kPiece = kLanes < kUnitDepth ? kLanes : kUnitDepth;
  const int64_t depth = (q.columns + kUnitDepth - 1) / kUnitDepth * kUnitDepth;
  const int64_t panel_bytes = depth * kPanelColumns;
  for (int64_t k = q.rows; k % kPanelColumns != 0; ++k) {
    int8_t* out = q.panels + k / kPanelColumns * panel_bytes + k % kPanelColumns * kUnitDepth;
    for (int64_t n = 0; n < depth; n += kUnitDepth) {
      __builtin_memset(out + n * kPanelColumns, 0, kUnitDepth);
    }
  }
  for (int64_t k = 0; k < q.rows; ++k) {
    const float* x = q.x + k * q.x_stride;
    const float scale = q.scales[k] = Row::Scale(x, q.columns);
    const float divisor = scale > 0.0f ? scale : __builtin_inff();
    int8_t* out = q.panels + k / kPanelColumns * panel_bytes + k % kPanelColumns * kUnitDepth;
    for (int64_t n = 0; n < depth; n += kLanes) {
      const bool whole = n + kLanes <= q.columns;
      uint8_t codes[kLanes];
      Narrow::Store(
          Row::Codes(whole ? F::Load(x + n) : F::LoadSome(x + n, q.columns - n, 0.0f), divisor),
          codes);
      for (int i = 0; i < kLanes && n + i < depth; i += kPiece) {
        const int64_t unit = (n + i) / kUnitDepth;
        __builtin_memcpy(out + unit * kUnitCodes + (n + i) % kUnitDepth, codes + i, kPiece);
      }
    }
  }
}

template <int kLanes, typename Narrow = LowBytes<kLanes>>
inline void QuantizePanels(const QuantizePanelsArguments& q) {
  if (q.transposed) {
    QuantizeTransposed<kLanes, Narrow>(q);
  } else {
    QuantizeDeep<kLanes>(q);
  }
}

}  // namespace
}  // namespace edgefold
