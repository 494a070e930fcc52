// SPDX-License-Identifier: Apache-2.0
// The kernel over a compiler vector of any number of lanes: the reference has one. Everything here
// is private to the file that includes it, since files differ in their compile flags.
#pragma once

#include "base/packed_matrix.h"
#include "kernels/activation/formulas.h"
#include "kernels/quantize_columns/quantize_columns.h"

namespace edgefold {
namespace {

// kLanes neighbouring columns.
template <int kLanes>
struct ColumnLanes {
  using F = Formulas<kLanes>;
  using Floats = typename F::Floats;
  using Ints = typename F::Ints;

  const QuantizeColumnsArguments& q;
  int64_t first;

  // Zeros beyond the matrix.
  Floats Row(int64_t k) const {
    Floats value = {};
    const float* x = q.x + k * q.columns + first;
    if (k >= q.rows || first >= q.columns) return value;
    if (first + kLanes <= q.columns) {
      __builtin_memcpy(&value, x, sizeof value);
    } else {
      __builtin_memcpy(&value, x, Bytes());
    }
    return value;
  }

  // Of the columns that there are, where that is some but not all.
  size_t Bytes() const { return static_cast<size_t>(q.columns - first) * sizeof(float); }

  Floats Scales() const {
    Floats most = {};
    for (int64_t k = 0; k < q.rows; ++k) {
      const Floats magnitude = F::Magnitude(Row(k));
      most = magnitude > most ? magnitude : most;
    }
    return most > F::All(1e-30f) ? most / 127.0f : Floats{};
  }

  // Codes as their low bytes.
  static Ints Codes(Floats x, Floats divisor) {
    constexpr float kToInteger = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
    const Floats value = F::Clip(x / divisor, -127.0f, 127.0f);
    return (Ints)((value == value ? value : Floats{}) + kToInteger) & 0xff;
  }

  void Run() const {
    const Floats scales = Scales();
    const Floats divisor = scales > Floats{} ? scales : F::All(__builtin_inff());
    if (first + kLanes <= q.columns) {
      __builtin_memcpy(q.scales + first, &scales, sizeof scales);
    } else if (first < q.columns) {
      __builtin_memcpy(q.scales + first, &scales, Bytes());
    }
    const int64_t units = (q.rows + kUnitDepth - 1) / kUnitDepth;
    int8_t* panel = q.panels + first / kPanelColumns * units * kUnitCodes;
    for (int64_t u = 0; u < units; ++u) {
      Ints four = {};
      for (int i = 0; i < kUnitDepth; ++i) {
        four |= Codes(Row(u * kUnitDepth + i), divisor) << (8 * i);
      }
      int8_t* out = panel + u * kUnitCodes + first % kPanelColumns * kUnitDepth;
      __builtin_memcpy(out, &four, sizeof four);
    }
  }
};

template <int kLanes>
inline void QuantizeColumns(const QuantizeColumnsArguments& q) {
  const int64_t padded = (q.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  for (int64_t n = 0; n < padded; n += kLanes) ColumnLanes<kLanes>{q, n}.Run();
}

}  // namespace
}  // namespace edgefold
