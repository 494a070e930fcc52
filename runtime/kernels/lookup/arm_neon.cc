// SPDX-License-Identifier: Apache-2.0
// A lookup instruction reads 64 bytes of the table and leaves what lies beyond them as it was.
#include <arm_neon.h>

#include "kernels/lookup/lookup.h"

namespace edgefold {
namespace {

constexpr int64_t kBytes = 16;

struct Table {
  uint8x16x4_t quarters[4];

  explicit Table(const uint8_t* table) {
    for (int q = 0; q < 4; ++q) {
      for (int v = 0; v < 4; ++v) quarters[q].val[v] = vld1q_u8(table + 64 * q + kBytes * v);
    }
  }

  uint8x16_t At(uint8x16_t x) const {
    const uint8x16_t quarter = vdupq_n_u8(64);
    uint8x16_t y = vqtbl4q_u8(quarters[0], x);
    for (int q = 1; q < 4; ++q) {
      x = vsubq_u8(x, quarter);
      y = vqtbx4q_u8(y, quarters[q], x);
    }
    return y;
  }
};

}  // namespace

void lookup_arm_neon(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y) {
  const Table entries(table);
  int64_t i = 0;
  for (; i + kBytes <= count; i += kBytes) vst1q_u8(y + i, entries.At(vld1q_u8(x + i)));
  for (; i < count; ++i) y[i] = table[x[i]];
}

}  // namespace edgefold
