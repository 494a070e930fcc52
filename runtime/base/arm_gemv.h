// SPDX-License-Identifier: Apache-2.0
// A few rows times packed panels on NEON. Included by arm_*.cc only.
#pragma once

#include "base/arm_neon_codes.h"
#include "base/arm_panel.h"

namespace edgefold {
namespace {

// Decodes 4 KB of a panel at a time, which the first-level cache keeps, and multiplies.
template <typename Multiply>
inline void Gemv(const PackedMatrix& matrix, int64_t first_panel, int64_t panel_count,
                 const Activations& a, int32_t* acc, int64_t acc_stride) {
  constexpr int64_t kUnitsAtOnce = 64;
  const TableBytes tables(matrix);
  alignas(64) int8_t weights[kUnitsAtOnce * kUnitCodes];
  for (int64_t p = 0; p < panel_count; ++p) {
    for (int64_t u = 0; u < matrix.Units(); u += kUnitsAtOnce) {
      const int64_t left = matrix.Units() - u;
      const int64_t units = left < kUnitsAtOnce ? left : kUnitsAtOnce;
      Decode(matrix, tables, first_panel + p, u, units, weights);
      Panel<Multiply>(a, u * kUnitDepth, weights, units, u > 0, acc + p * kPanelColumns,
                      acc_stride);
    }
  }
}

}  // namespace
}  // namespace edgefold
