// SPDX-License-Identifier: Apache-2.0
// Loops over registers. An array indexed by a run-time loop variable lives in memory in GCC, even
// when the loop is unrolled later; indexed by constants it becomes registers.
#pragma once

namespace edgefold {
namespace {

template <int kValue>
struct Index {
  constexpr operator int() const { return kValue; }
};

// Calls body(Index<0>), ..., body(Index<kCount - 1>), all inlined.
template <int kCount, int kFirst = 0, typename Body>
inline __attribute__((always_inline)) void Unroll(const Body& body) {
  if constexpr (kFirst < kCount) {
    body(Index<kFirst>{});
    Unroll<kCount, kFirst + 1>(body);
  }
}

}  // namespace
}  // namespace edgefold

// A lambda body for Unroll that is inlined whatever its size.
#define EF_INLINE __attribute__((always_inline))
