// SPDX-License-Identifier: Apache-2.0
#include "base/activation_at.h"
#include "selftest.h"

namespace edgefold::selftest {
namespace {

int TableCount(int bits, Tables tables) {
  if (tables == Tables::kSingle) return 1;
  if (tables == Tables::kShift) return 9 - bits;
  const int most = kMaxTableBytes >> bits;
  return most < kMaxTables ? most : kMaxTables;
}

// Level of a shape that begins at -top and ends at top.
int ShapeLevel(int shape, int code, int last, int top) {
  if (code == 0) return -top;
  return code == last ? top : (code * 5 + shape * 3) % top;
}

int8_t Level(Random& random, int bits, int t, int code, Tables tables) {
  const int half = 1 << (bits - 1);
  const int level = (code == 0 ? 1 : code) - half;
  switch (tables) {
    case Tables::kRandom:
      return static_cast<int8_t>(random.Range(-127, 127));
    case Tables::kExtreme:
      return random.Next() % 2 == 0 ? 127 : -127;
    case Tables::kSymmetric:  // magnitudes that depend on both numbers, up to 127
      return static_cast<int8_t>(
          (code < half ? -1 : 1) *
          (127 - (code < half ? code : 2 * half - 1 - code) * (t + 1) % 128));
    case Tables::kShift:
      return static_cast<int8_t>(level * (1 << t));
    case Tables::kSingle:
      return static_cast<int8_t>(level);
    case Tables::kShapes16:
      return static_cast<int8_t>((t % 7 + 1) * ShapeLevel(t % 2, code, 2 * half - 1, 16));
    case Tables::kShapes32:
      return static_cast<int8_t>((t % 3 + 1) * ShapeLevel(t % 2, code, 2 * half - 1, 32));
  }
  return 0;
}

}  // namespace

RandomMatrix::RandomMatrix(Random& random, int bits, int64_t k, int64_t n, Tables tables) {
  matrix.k = k;
  matrix.n = n;
  matrix.bits = bits;
  matrix.tables = TableCount(bits, tables);
  codes.resize(matrix.Panels() * matrix.Units() * matrix.UnitBytes());
  for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.Next());
  selectors.resize(matrix.tables == 1 ? 8 : matrix.Panels() * matrix.Groups() * 8);
  for (uint8_t& byte : selectors) {
    byte = static_cast<uint8_t>(random.Range(0, matrix.tables - 1) |
                                random.Range(0, matrix.tables - 1) << 4);
  }
  for (int t = 0; t < matrix.tables; ++t) {
    for (int c = 0; c < 1 << bits; ++c) table.push_back(Level(random, bits, t, c, tables));
  }
  matrix.codes = codes.data();
  matrix.selectors = selectors.data();
  matrix.table = table.data();
  DetectStructure(&matrix);
}

RandomRows::RandomRows(Random& random, int64_t rows, int64_t k, bool is_unsigned, bool extreme) {
  const int64_t groups = (k + kGroupDepth - 1) / kGroupDepth;
  const int64_t stride = groups * kGroupDepth;
  const int low = is_unsigned ? 0 : -127;
  const int high = is_unsigned ? 255 : 127;
  codes.resize(rows * stride);
  sums.resize(rows);
  pair_sums.resize(rows * groups * 4);
  activations = {codes.data(), stride,      rows,
                 is_unsigned,  sums.data(), is_unsigned ? nullptr : pair_sums.data(),
                 groups};
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i < k; ++i) {
      const int either = m % 3 == 0 || random.Next() % 4 == 0 ? low : high;
      const int code = !extreme ? random.Range(low, high) : m % 3 == 1 ? high : either;
      codes[m * stride + i] = static_cast<uint8_t>(code);
      sums[m] += code;
      int16_t& pair = pair_sums[(m * groups * 2 + i / 16) * 2 + i % 4 / 2];
      pair = static_cast<int16_t>(pair + code);
    }
  }
}

}  // namespace edgefold::selftest
