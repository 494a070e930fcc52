// SPDX-License-Identifier: Apache-2.0
// Fewer floats than a compiler vector has lanes. Private to the file that includes it, since files
// differ in their compile flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgefold {
namespace {

template <int kLanes>
struct SomeLanes {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));

  // The first `count` numbers, 1 <= count < kLanes, and others behind them.
  static Floats Load(const float* x, int64_t count, float others) {
    Floats value = Floats{} + others;
    __builtin_memcpy(&value, x, static_cast<size_t>(count) * sizeof(float));
    return value;
  }

  static void Store(Floats value, float* x, int64_t count) {
    __builtin_memcpy(x, &value, static_cast<size_t>(count) * sizeof(float));
  }
};

}  // namespace
}  // namespace edgefold
