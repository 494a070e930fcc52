// SPDX-License-Identifier: Apache-2.0
#include "base/packed_matrix.h"

#include <algorithm>
#include <numeric>

namespace edgefold {
namespace {

// Whether every table is (max(c, lowest) - zero) times its own multiplier.
bool LinearAround(const PackedMatrix& matrix, int lowest, int zero, int8_t* multiplier) {
  const int levels = 1 << matrix.bits;
  for (int t = 0; t < matrix.tables; ++t) {
    const int8_t* table = matrix.Table(t);
    const int step = table[levels - 1] - table[levels - 2];
    if (step < -127 || step > 127) return false;
    for (int c = 0; c < levels; ++c) {
      if (table[c] != ((c < lowest ? lowest : c) - zero) * step) return false;
    }
    multiplier[t] = static_cast<int8_t>(step);
  }
  return true;
}

// Adds table t, divided by its greatest common divisor, to the shapes; false where it does not fit.
bool AddFactors(const PackedMatrix& matrix, int t, Factors* factors) {
  const int levels = 1 << matrix.bits;
  const int8_t* table = matrix.Table(t);
  int divisor = 0;
  for (int c = 0; c < levels; ++c) divisor = std::gcd(divisor, table[c]);
  factors->factor[t] = static_cast<int8_t>(divisor);
  int8_t shape[16] = {};
  for (int c = 0; c < levels && divisor > 0; ++c) {
    shape[c] = static_cast<int8_t>(table[c] / divisor);
    factors->top = std::max(factors->top, std::abs(shape[c]));
  }
  int s = 0;
  while (s < factors->shapes && !std::equal(shape, shape + levels, factors->shape[s])) ++s;
  if (s == 2 || factors->top > kMaxShapeLevel) return false;
  factors->shapes = std::max(factors->shapes, s + 1);
  factors->shape_of[t] = static_cast<uint8_t>(s);
  std::copy(shape, shape + 16, factors->shape[s]);
  return true;
}

Factors FactorsOf(const PackedMatrix& matrix) {
  Factors factors = {};
  bool fits = matrix.bits <= 4;
  for (int t = 0; fits && t < matrix.tables; ++t) fits = AddFactors(matrix, t, &factors);
  return fits ? factors : Factors{};
}

bool Symmetric(const PackedMatrix& matrix) {
  const int last = (1 << matrix.bits) - 1;
  for (int t = 0; t < matrix.tables; ++t) {
    const int8_t* table = matrix.Table(t);
    for (int c = 0; c <= last / 2; ++c) {
      if (table[last - c] < 0 || table[last - c] != -table[c]) return false;
    }
  }
  return true;
}

}  // namespace

void DetectStructure(PackedMatrix* matrix) {
  matrix->factors = FactorsOf(*matrix);
  matrix->symmetric = Symmetric(*matrix);
  matrix->linear = false;
  for (int candidate = 0; candidate < 2 << matrix->bits && !matrix->linear; ++candidate) {
    matrix->lowest = candidate & 1;
    matrix->zero = candidate >> 1;
    matrix->linear = LinearAround(*matrix, matrix->lowest, matrix->zero, matrix->multiplier);
  }
}

bool SelectorsValid(const PackedMatrix& matrix) {
  const int64_t bytes = matrix.tables == 1 ? 8 : matrix.Panels() * matrix.Groups() * 8;
  int highest = 0;
  for (int64_t i = 0; i < bytes; ++i) {
    const int low = matrix.selectors[i] & 15;
    const int high = matrix.selectors[i] >> 4;
    highest = low > highest ? low : highest;
    highest = high > highest ? high : highest;
  }
  return highest < matrix.tables;
}

int CodeAt(const PackedMatrix& matrix, int64_t k, int64_t column) {
  const int64_t unit = k / kUnitDepth;
  const int p = static_cast<int>(column % kPanelColumns * kUnitDepth + k % kUnitDepth);
  const uint8_t* field = matrix.PanelCodes(column / kPanelColumns) + unit * matrix.UnitBytes();
  int code = 0;
  int position = 0;
  for (int width = 8; width > 0; width /= 2) {
    if ((matrix.bits & width) == 0) continue;
    const int bytes = 8 * width;
    const int value = field[p % bytes] >> p / bytes * width & ((1 << width) - 1);
    code |= value << position;
    position += width;
    field += bytes;
  }
  return code;
}

}  // namespace edgefold
