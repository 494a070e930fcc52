// SPDX-License-Identifier: Apache-2.0
// Sizes rounded up to whole pieces.
#pragma once

#include <cstdint>

namespace edgefold {

// How many pieces of b hold a; a >= 0, b > 0.
inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The least multiple of `to` that is not below a.
inline int64_t RoundUp(int64_t a, int64_t to) { return CeilDiv(a, to) * to; }

}  // namespace edgefold
